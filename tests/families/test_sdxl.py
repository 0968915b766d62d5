from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import a_request, finish, unet_rows
from diffusers import StableDiffusionXLPipeline
from same import check_batch, check_checkpoints
from tiny import change_json, load, make_sdxl_pair

from ecdiff.errors import InputError, NonFiniteError
from ecdiff.families import sdxl
from ecdiff.families.sdxl import StableDiffusionXL
from ecdiff.plan import cloud_only
from ecdiff.request import Request

SCHEDULERS = tuple(StableDiffusionXL.schedulers)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sdxl_pair(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="module")
def model(folder: Path) -> StableDiffusionXL:
    return load(sdxl, folder / "cloud")


def plain(folder: Path, request: Request, steps: int) -> torch.Tensor:
    """diffusers' own pictures in [0, 1]."""
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    kind = StableDiffusionXL.schedulers[request.scheduler]
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config)
    return pipeline(
        request.prompt,
        height=request.height,
        width=request.width,
        num_inference_steps=steps,
        guidance_scale=request.guidance,
        negative_prompt=request.negative_prompt or None,
        num_images_per_prompt=len(request.seeds),
        generator=[torch.Generator().manual_seed(seed) for seed in request.seeds],
        output_type="pt",
    ).images


def ours(model: StableDiffusionXL, request: Request, steps: int) -> torch.Tensor:
    done = finish(model, request, cloud_only(steps))
    return model.decode(torch.cat([t.latents for t in done]))


def assert_equal_to_diffusers(
    model: StableDiffusionXL, folder: Path, request: Request, steps: int
) -> None:
    mine, theirs = ours(model, request, steps), plain(folder, request, steps)
    assert mine.shape == theirs.shape == (len(request.seeds), 3, request.height, request.width)
    assert (mine - theirs).abs().max() <= 1e-4


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_an_all_cloud_plan_equals_diffusers(
    scheduler: str, model: StableDiffusionXL, folder: Path
) -> None:
    assert_equal_to_diffusers(model, folder / "cloud", a_request(scheduler=scheduler), 20)


@pytest.mark.parametrize(
    "changes",
    [
        {"negative_prompt": "blue fish"},
        {"guidance": 1.0},
        {"seeds": (7, 8)},
        {"height": 40, "width": 56},
        {"prompt": "a red house " * 9},  # longer than the text encoders read
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_variations_equal_diffusers(
    changes: dict[str, Any], model: StableDiffusionXL, folder: Path
) -> None:
    assert_equal_to_diffusers(model, folder / "cloud", a_request(scheduler="euler", **changes), 4)


def test_an_empty_negative_prompt_is_zeros_where_the_pipeline_says_so(
    model: StableDiffusionXL, tmp_path: Path
) -> None:
    empty = model.encode(a_request())
    assert not empty["negative"].any()
    assert not empty["negative_pooled"].any()
    folder = make_sdxl_pair(tmp_path)
    change_json(folder / "cloud" / "model_index.json", force_zeros_for_empty_prompt=False)
    other = load(sdxl, folder / "cloud")
    assert other.encode(a_request())["negative"].any()
    assert_equal_to_diffusers(other, folder / "cloud", a_request(scheduler="euler"), 3)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_checkpoint_at_every_step_goes_on_bit_for_bit(
    scheduler: str, model: StableDiffusionXL
) -> None:
    check_checkpoints(model, a_request(scheduler=scheduler), draws=scheduler == "lcm")


def test_a_batch_equals_each_alone(model: StableDiffusionXL) -> None:
    guidances = [7.5, 1.0, 3.0, 5.0]
    requests = [
        a_request(scheduler=scheduler, guidance=g, seeds=(j,))
        for j, (scheduler, g) in enumerate(zip(SCHEDULERS, guidances, strict=True))
    ]
    check_batch(model, requests)


def test_rows_of_a_network_call(model: StableDiffusionXL) -> None:
    with unet_rows(model) as rows:
        finish(model, a_request(seeds=(1, 2)), cloud_only(1))
        finish(model, a_request(seeds=(1, 2), guidance=1.0), cloud_only(1))
    assert rows == [4, 2]


def test_the_size_is_told_to_the_network(model: StableDiffusionXL) -> None:
    """Time ids: the same latents, asked for as another size, give another prediction."""
    t = model.begin(a_request(), cloud_only(2), 7, model.encode(a_request()))
    first = model.predict([t])
    t.request = a_request(height=64)
    assert not torch.allclose(first, model.predict([t]), atol=1e-5)


def test_few_steps_with_a_guidance_embedding_equal_diffusers(tmp_path: Path) -> None:
    """A U-Net distilled for LCM takes its guidance as an input and no unconditional row."""
    folder = make_sdxl_pair(tmp_path, time_cond_proj_dim=8)
    model = load(sdxl, folder / "cloud")
    request = a_request(scheduler="lcm", guidance=8.0)
    with unet_rows(model) as rows:
        assert_equal_to_diffusers(model, folder / "cloud", request, 4)
    assert rows == [1] * 4
    other = finish(model, replace(request, guidance=4.0), cloud_only(4))
    (same,) = finish(model, request, cloud_only(4))
    assert not torch.allclose(other[0].latents, same.latents, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scheduler": "dpm"}, r"'dpm' is not for this model: use ddim or euler or dpm\+\+ or lcm"),
        ({"frames": 9}, "frames is 9"),
        ({"dynamic_guidance": True}, "dynamic guidance"),
    ],
)
def test_what_it_cannot_draw_is_refused_before_any_work(
    changes: dict[str, Any], message: str, model: StableDiffusionXL
) -> None:
    with pytest.raises(InputError, match=message):
        model.begin(a_request(**changes), cloud_only(10), 7, {})


def test_more_steps_than_an_lcm_was_distilled_for(model: StableDiffusionXL) -> None:
    with pytest.raises(InputError, match="51 steps"):
        model.begin(a_request(scheduler="lcm"), cloud_only(51), 7, {})


def test_a_half_precision_vae_is_upcast_where_its_configuration_says_so(folder: Path) -> None:
    model = load(sdxl, folder / "cloud", dtype=torch.float16)
    assert (model.dtype, model.vae.dtype) == (torch.float16, torch.float32)
    pictures = model.decode(torch.randn(1, 4, 8, 8).half())
    assert pictures.dtype == torch.float32
    assert load(sdxl, folder / "cloud", dtype=torch.bfloat16).vae.dtype == torch.bfloat16
    with pytest.raises(NonFiniteError, match="VAE"):
        model.decode(torch.full((1, 4, 8, 8), float("nan")))


def test_parts_are_loaded_when_they_are_needed(folder: Path, tmp_path: Path) -> None:
    """A cloud without a VAE's weights denoises; one without text encoders' decodes."""
    for part in (folder / "cloud").iterdir():
        if part.name not in ("vae", "text_encoder_2"):
            (tmp_path / part.name).symlink_to(part)
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_bytes(
        (folder / "cloud" / "vae" / "config.json").read_bytes()
    )
    model = load(sdxl, tmp_path)
    conditioning = load(sdxl, folder / "cloud").encode(a_request())
    t = model.begin(a_request(), cloud_only(1), 7, conditioning)
    assert model.predict([t]).shape == (1, 4, 8, 8)
