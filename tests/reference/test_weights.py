"""The shipped pair: stock folders, quiet to load, of one latent space, small."""

from __future__ import annotations

import json
import logging
import random
import warnings
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors import safe_open

from ecdiff.reference.classifier import HEADS, correct, load_classifier
from ecdiff.reference.data import picture_batch
from ecdiff.reference.models import MAX_TOKENS, WEIGHTS, load_pipeline
from ecdiff.reference.scenes import caption, held_out_scenes, training_scene
from ecdiff.reference.video.models import WEIGHTS as VIDEO_WEIGHTS


def test_the_cloud_folder_loads_with_no_warning(
    recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    for library in ("diffusers", "transformers"):
        logging.getLogger(library).addHandler(caplog.handler)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe = StableDiffusionPipeline.from_pretrained(WEIGHTS / "cloud")
    for library in ("diffusers", "transformers"):
        logging.getLogger(library).removeHandler(caplog.handler)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert {m.dtype for m in (pipe.unet, pipe.vae, pipe.text_encoder)} == {torch.float32}


def test_both_sides_share_one_latent_space() -> None:
    cloud = UNet2DConditionModel.from_pretrained(WEIGHTS / "cloud" / "unet").config
    edge = UNet2DConditionModel.from_pretrained(WEIGHTS / "edge" / "unet").config
    for name in ("in_channels", "out_channels", "sample_size", "cross_attention_dim"):
        assert cloud[name] == edge[name]
    vae = json.loads((WEIGHTS / "cloud" / "vae" / "config.json").read_text())
    assert cloud.in_channels == vae["latent_channels"]
    assert cloud.sample_size * 8 == vae["sample_size"]


@pytest.mark.parametrize(
    ("folder", "count", "limit"), [(WEIGHTS, 5, 40e6), (VIDEO_WEIGHTS, 7, 20e6)]
)
def test_weights_are_half_precision_and_small(folder: Path, count: int, limit: float) -> None:
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".md"}
    tensors = [file for file in files if file.suffix == ".safetensors"]
    assert len(tensors) == count
    for file in tensors:
        with safe_open(file, "pt") as opened:
            names = list(opened.keys())
            assert {str(opened.get_slice(n).get_dtype()) for n in names} == {"F16"}, file
    assert sum(file.stat().st_size for file in files) < limit


def test_the_tokenizer_pads_lowercases_and_spells_unseen_words() -> None:
    tokenizer = load_pipeline().tokenizer
    captions = [caption(training_scene(i), random.Random(i)) for i in range(300)]
    ids = tokenizer(captions, padding="max_length", truncation=True).input_ids
    assert {len(row) for row in ids} == {MAX_TOKENS}
    assert all(row[-1] == tokenizer.eos_token_id for row in ids)
    assert len(tokenizer) <= 2000
    assert tokenizer("A RED House").input_ids == tokenizer("a red house").input_ids
    zebra = tokenizer("zebra, 42 é").input_ids[1:-1]
    assert len(zebra) > 4
    assert tokenizer.eos_token_id not in zebra


@pytest.mark.parametrize("site", ["cloud", "edge"])
def test_the_same_seed_draws_the_same_picture(site: str) -> None:
    drawn = []
    for seed in (0, 0, 1):
        generator = torch.Generator().manual_seed(seed)
        pipe = load_pipeline(site=site)
        image = pipe("a big red house in the snow", num_inference_steps=2, generator=generator)
        drawn.append(image.images[0])
    first, again, other = drawn
    assert first.size == (128, 128)
    assert first.tobytes() == again.tobytes() != other.tobytes()


def test_the_classifier_reads_rendered_scenes() -> None:
    scenes = held_out_scenes(40)
    right = correct(load_classifier(), picture_batch(scenes), scenes)
    for head in HEADS:
        assert float(right[head].float().mean()) >= 0.9, head


@pytest.mark.parametrize("folder", [WEIGHTS, VIDEO_WEIGHTS])
def test_no_configuration_names_a_place_on_the_makers_machine(folder: Path) -> None:
    configs = list(folder.rglob("config.json"))
    assert len(configs) >= 4
    for config in configs:
        assert json.loads(config.read_text()).get("_name_or_path", "") == "", config
