"""Train the cloud model (U-Net and text encoder), and distil the edge model from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from ecdiff.reference.data import cached_latents, caption_ids, save_grid
from ecdiff.reference.models import new_scheduler, pipeline
from ecdiff.reference.runs import Run, RunConfig
from ecdiff.reference.scenes import caption, held_out_scenes

GUIDANCE = 3.0
MIN_SNR = 5.0
FEATURE_WEIGHT = 0.1
BLOCKS = ("down_blocks.0", "down_blocks.1", "up_blocks.0", "up_blocks.1")


@dataclass(frozen=True)
class Pair:
    """The cloud's modules."""

    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    cloud: UNet2DConditionModel


@dataclass(frozen=True)
class Noised:
    """A training batch: `x_t` = sqrt(abar) x_0 + sqrt(1 - abar) eps, each [B, 8, 16, 16]."""

    x_t: torch.Tensor
    t: torch.Tensor  # [B]
    eps: torch.Tensor
    ids: torch.Tensor  # [B, 32]
    weight: torch.Tensor  # [B], min(SNR, 5) / SNR


def train_cloud(config: RunConfig, pair: Pair, scenes: int, export: Callable[[], None]) -> None:
    """Train the cloud's U-Net and text encoder on `scenes` cached scenes.

    Every few minutes and at the end `export` is called while the modules hold averaged weights.
    """
    latents = cached_latents(pair.vae, scenes, config.out.parent, config.device)
    run = Run(config, {"unet": pair.cloud.train(), "text_encoder": pair.text_encoder.train()})

    def loss_of_step(g: torch.Generator) -> torch.Tensor:
        b = noised_batch(latents, pair.tokenizer, config, g)
        with torch.autocast(config.device, torch.bfloat16):
            text = pair.text_encoder(b.ids).last_hidden_state
            pred = pair.cloud(b.x_t, b.t, text).sample
        return _weighted_mse(pred, b.eps, b.weight)

    run.train(loss_of_step, lambda r: _draw(r, pair, pair.cloud, export))


def train_edge(
    config: RunConfig,
    pair: Pair,
    edge: UNet2DConditionModel,
    scenes: int,
    export: Callable[[], None],
) -> None:
    """Distil the edge's U-Net: the task's loss, the cloud's output, and its blocks' outputs."""
    latents = cached_latents(pair.vae, scenes, config.out.parent, config.device)
    run = Run(config, {"unet": edge.train()})
    teacher = pair.cloud.to(config.device).eval().requires_grad_(False)
    text_encoder = pair.text_encoder.to(config.device).eval().requires_grad_(False)
    wanted, got = _record_blocks(teacher), _record_blocks(edge)

    def loss_of_step(g: torch.Generator) -> torch.Tensor:
        b = noised_batch(latents, pair.tokenizer, config, g)
        with torch.autocast(config.device, torch.bfloat16):
            with torch.no_grad():
                text = text_encoder(b.ids).last_hidden_state
                target = teacher(b.x_t, b.t, text).sample
            pred = edge(b.x_t, b.t, text).sample
        features = sum(
            (got[k].float() - wanted[k].float()).pow(2).mean() / wanted[k].float().pow(2).mean()
            for k in BLOCKS
        )
        task = _weighted_mse(pred, b.eps, b.weight)
        return task + _weighted_mse(pred, target, b.weight) + FEATURE_WEIGHT * features

    run.train(loss_of_step, lambda r: _draw(r, pair, edge, export))


def noised_batch(
    latents: torch.Tensor, tokenizer: CLIPTokenizer, config: RunConfig, g: torch.Generator
) -> Noised:
    """Draw scenes, captions, noise and timesteps (stratified over the batch) from `g`."""
    n = config.batch
    seeds = torch.randint(len(latents), (n,), generator=g)
    x0 = latents[seeds].float()
    eps = torch.randn(x0.shape, generator=g)
    t = ((torch.arange(n) + torch.rand(n, generator=g)) / n * 1000).long().clamp(0, 999)
    abar = new_scheduler().alphas_cumprod[t]
    a = abar[:, None, None, None]
    snr = abar / (1 - abar)
    ids = caption_ids(tokenizer, seeds.tolist(), g)
    parts = (a.sqrt() * x0 + (1 - a).sqrt() * eps, t, eps, ids, snr.clamp(max=MIN_SNR) / snr)
    return Noised(*(part.to(config.device) for part in parts))


def _weighted_mse(pred: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return (weight * (pred.float() - target.float()).pow(2).flatten(1).mean(1)).mean()


def _record_blocks(unet: nn.Module) -> dict[str, torch.Tensor]:
    """Hook a U-Net so that the returned dict always holds its blocks' latest outputs."""
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            seen[name] = output[0] if isinstance(output, tuple) else output

        return hook

    for name in BLOCKS:
        unet.get_submodule(name).register_forward_hook(keep(name))
    return seen


@torch.no_grad()
def _draw(run: Run, pair: Pair, unet: UNet2DConditionModel, export: Callable[[], None]) -> None:
    """With averaged weights in place, export and draw a grid of held-out prompts in 20 steps."""
    device = run.config.device
    with run.averaged():
        export()
        pipe = pipeline(pair.vae.to(device), pair.text_encoder, pair.tokenizer, unet)
        prompts = [caption(s) for s in (*held_out_scenes(24), *held_out_scenes(8, things=2))]
        with torch.autocast(device, torch.bfloat16):
            x = pipe(
                prompts,
                num_inference_steps=20,
                guidance_scale=GUIDANCE,
                generator=[torch.Generator().manual_seed(i) for i in range(len(prompts))],
                output_type="pt",
            ).images
    save_grid(x.float() * 2 - 1, run.config.out / "progress.png", columns=8)
