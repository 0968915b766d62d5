"""The video pair's models: stock behaviour, the two sites' scales, and the distillation target."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXPipeline

from ecdiff.reference.data import token_ids
from ecdiff.reference.video.clips import FRAMES, SIDE, caption, held_out_clips, training_clip
from ecdiff.reference.video.data import clip_batch
from ecdiff.reference.video.models import (
    LATENT_CHANNELS,
    SCALE_RATIO,
    draw,
    edge_from_cloud,
    load_pipeline,
    new_cloud,
    new_scheduler,
    new_text_encoder,
    new_tokenizer,
    new_vae,
    pipeline,
    rotary,
    save,
)
from ecdiff.reference.video.pair import Batch, edge_v


@pytest.fixture(scope="module")
def vae() -> AutoencoderKLCogVideoX:
    torch.manual_seed(0)
    return new_vae().eval()


@pytest.fixture(scope="module")
def folder(vae: AutoencoderKLCogVideoX, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained pair as it is shipped."""
    torch.manual_seed(0)
    weights = tmp_path_factory.mktemp("weights")
    tokenizer = new_tokenizer()
    text_encoder, cloud = new_text_encoder(tokenizer), new_cloud()
    save(pipeline("cloud", vae, text_encoder, tokenizer, cloud), weights / "cloud")
    edge = pipeline("edge", vae, text_encoder, tokenizer, edge_from_cloud(cloud))
    save(edge, weights / "edge")
    return weights


@torch.no_grad()
def test_the_untrained_encoder_keeps_motion(vae: AutoencoderKLCogVideoX) -> None:
    """A linear readout of one latent frame explains how its four frames change."""
    x = clip_batch(range(400, 448))
    z = vae.encode(x).latent_dist.mean[:, :, 1]  # of frames 1 to 4
    change = torch.nn.functional.pixel_unshuffle(x[:, :, 4] - x[:, :, 1], 4)
    wanted, codes = (v.permute(0, 2, 3, 1).flatten(0, 2) for v in (change, z))
    codes = torch.cat([codes, torch.ones(len(codes), 1)], 1)
    rest = wanted - codes @ torch.linalg.lstsq(codes, wanted).solution
    assert rest.square().mean() < 0.75 * wanted.square().mean()


@torch.no_grad()
def test_the_latents_have_variance_one_at_the_edges_scale(vae: AutoencoderKLCogVideoX) -> None:
    z = vae.encode(clip_batch(range(32, 64))).latent_dist.mean * vae.config.scaling_factor
    assert z.shape == (32, LATENT_CHANNELS, 3, 16, 16)
    assert abs(float(z.square().mean()) - 1) < 0.15


def test_cloud_and_edge_differ_as_5b_and_2b_do(folder: Path) -> None:
    cloud, edge = load_pipeline(folder), load_pipeline(folder, "edge")
    ratio = cloud.vae.config.scaling_factor / edge.vae.config.scaling_factor
    assert abs(ratio - 0.7 / 1.15258426) < 1e-4
    assert (cloud.scheduler.config.snr_shift_scale, edge.scheduler.config.snr_shift_scale) == (1, 3)
    assert cloud.transformer.config.use_rotary_positional_embeddings
    assert not edge.transformer.config.use_rotary_positional_embeddings
    for a, b in zip(cloud.vae.parameters(), edge.vae.parameters(), strict=True):
        assert torch.equal(a, b)
    for pipe in (cloud, edge):
        config = pipe.scheduler.config
        assert config.prediction_type == "v_prediction"
        assert config.timestep_spacing == "trailing"
        assert config.rescale_betas_zero_snr
        assert float(pipe.scheduler.alphas_cumprod[-1]) == 0


def test_plain_diffusers_loads_and_draws_the_same_clip_again(folder: Path) -> None:
    pipe = CogVideoXPipeline.from_pretrained(folder / "cloud")
    pipe.set_progress_bar_config(disable=True)
    prompts = [caption(clip) for clip in held_out_clips(2)]
    x = draw(pipe, prompts, guidance=3.0, steps=2)
    assert x.shape == (2, 3, FRAMES, SIDE, SIDE)
    assert torch.equal(x, draw(pipe, prompts, guidance=3.0, steps=2))


def test_rotary_positions_are_the_stock_pipelines(folder: Path) -> None:
    pipe = load_pipeline(folder)
    waves = rotary(pipe.transformer)
    assert waves is not None
    stock = pipe._prepare_rotary_positional_embeddings(SIDE, SIDE, 3, torch.device("cpu"))
    assert all(torch.equal(a, b) for a, b in zip(waves, stock, strict=True))


def test_every_caption_is_said_in_known_whole_words(folder: Path) -> None:
    tokenizer = load_pipeline(folder).tokenizer
    for seed in range(200):
        words = caption(training_clip(seed))
        ids = token_ids(tokenizer, [words])[0]
        assert tokenizer.unk_token_id not in ids
        assert int((ids != tokenizer.pad_token_id).sum()) == len(words.split()) + 1
        assert tokenizer.decode(ids, skip_special_tokens=True) == words


def test_a_perfect_cloud_is_a_perfect_teacher() -> None:
    """Where the cloud predicts its own v exactly, the edge's target is the edge's own v."""
    g = torch.Generator().manual_seed(0)
    z, eps = (torch.randn(20, 3, 8, 16, 16, generator=g) for _ in range(2))
    batch = Batch(z, eps, torch.arange(0, 1000, 50), torch.zeros(20, 16), torch.zeros(20, 2, 192))
    cloud, edge = batch.noised("cloud"), batch.noised("edge")
    assert torch.allclose(edge_v(cloud, edge, cloud.v), edge.v, atol=2e-3)


def test_noised_latents_are_the_schedulers_own() -> None:
    g = torch.Generator().manual_seed(0)
    z, eps = (torch.randn(4, 3, 8, 16, 16, generator=g) for _ in range(2))
    t = torch.tensor([999, 700, 300, 19])
    batch = Batch(z, eps, t, torch.zeros(4, 16), torch.zeros(4, 2, 192))
    for site, scale in (("cloud", SCALE_RATIO), ("edge", 1.0)):
        stock = new_scheduler(site).add_noise(scale * z, eps, t)
        assert torch.allclose(batch.noised(site).x_t, stock, atol=1e-5)


def test_an_edge_starts_from_the_clouds_layers() -> None:
    cloud = new_cloud()
    edge = edge_from_cloud(cloud)
    last = edge.transformer_blocks[-1].ff.net[2].weight
    assert torch.equal(last, cloud.transformer_blocks[-1].ff.net[2].weight)
    assert torch.equal(edge.proj_out.weight, cloud.proj_out.weight)
    assert len(edge.transformer_blocks) < len(cloud.transformer_blocks) / 2
