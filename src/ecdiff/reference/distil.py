"""Distil the edge's U-Net from the cloud's."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from diffusers import DPMSolverMultistepScheduler, UNet2DConditionModel
from transformers import CLIPTokenizer

from ecdiff.reference.data import cached_latents, caption_ids, token_ids, weights_hash
from ecdiff.reference.models import new_scheduler, pipeline, written_out_attention
from ecdiff.reference.runs import Run, RunConfig, save_whole
from ecdiff.reference.scenes import caption, training_scene
from ecdiff.reference.train_pair import (
    Pair,
    draw_progress,
    features_apart,
    record_blocks,
    stratified,
)

FEATURE_WEIGHT = 0.02
LOWEST_GUIDANCE, HIGHEST_GUIDANCE = 1.0, 8.0
# The edge finishes pictures: three quarters of its timesteps are below 300, and few above 600, for
# the cloud is there to plan. Share of all, and below what.
TIMESTEPS = ((0.0, 0), (0.75, 300), (0.99, 600), (1.0, 1000))
DRAWN_STEPS = 12  # of DPM-Solver++
DRAWN_BATCH = 32
BLOCKS = ("down_blocks.0", "down_blocks.1", "up_blocks.0", "up_blocks.1")


@dataclass(frozen=True)
class Drawn:
    """Pictures that the cloud drew."""

    latents: torch.Tensor  # [N, 16, 16, 16], scaled
    ids: torch.Tensor  # [N, 32], of the captions
    guidance: torch.Tensor  # [N]


@dataclass(frozen=True)
class EdgeBatch:
    """`x_t` [B, 16, 16, 16] of scenes and of drawn pictures by turns."""

    x_t: torch.Tensor
    t: torch.Tensor  # [B]
    ids: torch.Tensor  # [B, 32]
    guidance: torch.Tensor  # [B, 1, 1, 1]


def train_edge(
    config: RunConfig,
    pair: Pair,
    edge: UNet2DConditionModel,
    scenes: int,
    drawn: int,
    export: Callable[[], None],
) -> None:
    """Teach the edge the cloud's guided noise and its blocks' outputs.

    Guidance multiplies what the words change in a prediction, and that part's error with it. So
    each x_t is seen with its caption and without, and the error is that of the guided noise
    eps_u + w (eps_c - eps_u). Guidance also moves pictures away from the renders. So every other
    picture is one of `drawn` that the cloud drew itself, seen at the guidance it was drawn at.
    """
    latents = cached_latents(pair.vae, scenes, config.out.parent, config.device)
    own = drawn_latents(pair, drawn, config.out.parent, config.device)
    run = Run(config, {"unet": edge.train()})
    teacher = pair.cloud.to(config.device).eval().requires_grad_(False)
    text_encoder = pair.text_encoder.to(config.device).eval().requires_grad_(False)
    written_out_attention(edge)
    written_out_attention(teacher)
    wanted, got = record_blocks(teacher, BLOCKS), record_blocks(edge, BLOCKS)
    no_words = token_ids(pair.tokenizer, [""] * config.batch).to(config.device)

    def loss_of_step(g: torch.Generator) -> torch.Tensor:
        b = _batch(latents, own, pair.tokenizer, config, g)
        x_t, t = b.x_t.repeat(2, 1, 1, 1), b.t.repeat(2)
        with torch.autocast(config.device, torch.bfloat16):
            with torch.no_grad():
                text = text_encoder(torch.cat([b.ids, no_words])).last_hidden_state
                target = teacher(x_t, t, text).sample
            predicted = edge(x_t, t, text).sample
        with_words, without = (predicted.float() - target.float()).chunk(2)
        guided = without + b.guidance * (with_words - without)
        output: torch.Tensor = (guided.pow(2) / b.guidance).mean()
        features = features_apart((got[k] for k in BLOCKS), (wanted[k] for k in BLOCKS))
        return output + FEATURE_WEIGHT * features

    run.train(loss_of_step, lambda r: draw_progress(r, pair, edge, export))


@torch.no_grad()
def drawn_latents(pair: Pair, count: int, folder: Path, device: str) -> Drawn:
    """`count` scenes drawn by the cloud, each batch at its own guidance; made once a U-Net."""
    path = folder / f"drawn-{count}-{weights_hash(pair.cloud)}.pt"
    if not path.exists():
        pipe = pipeline(pair.vae, pair.text_encoder, pair.tokenizer, pair.cloud).to(device)
        pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
        parts = []
        for start in range(0, count, DRAWN_BATCH):
            g, rng = torch.Generator().manual_seed(start), random.Random(start)
            share = float(torch.rand((), generator=g))
            guidance = LOWEST_GUIDANCE + (HIGHEST_GUIDANCE - LOWEST_GUIDANCE) * share
            seeds = range(start, min(start + DRAWN_BATCH, count))
            texts = [caption(training_scene(seed), rng) for seed in seeds]
            with torch.autocast(device, torch.bfloat16):
                z = pipe(texts, None, None, DRAWN_STEPS, guidance_scale=guidance, generator=g,
                         output_type="latent").images  # fmt: skip
            full = torch.full((len(texts),), guidance)
            parts.append((z.half().cpu(), token_ids(pair.tokenizer, texts), full))
            print(f"drawn {start}/{count}", flush=True)
        save_whole([torch.cat(part) for part in zip(*parts, strict=True)], path)
    return Drawn(*torch.load(path, weights_only=True))


def _batch(
    latents: torch.Tensor,
    drawn: Drawn,
    tokenizer: CLIPTokenizer,
    config: RunConfig,
    g: torch.Generator,
) -> EdgeBatch:
    n = config.batch
    seeds = torch.randint(len(latents), (n,), generator=g)
    x0, ids = latents[seeds].float(), caption_ids(tokenizer, seeds.tolist(), g)
    w = LOWEST_GUIDANCE + (HIGHEST_GUIDANCE - LOWEST_GUIDANCE) * torch.rand(n, generator=g)
    own = torch.randint(len(drawn.latents), (n // 2,), generator=g)
    x0[1::2], ids[1::2], w[1::2] = drawn.latents[own].float(), drawn.ids[own], drawn.guidance[own]
    u = stratified(n, g)
    t = torch.zeros(n)
    for (share, first), (until, last) in pairwise(TIMESTEPS):
        inside = (u >= share) & (u < until)
        t = torch.where(inside, first + (last - first) * (u - share) / (until - share), t)
    t = t.long()
    x_t = new_scheduler().add_noise(x0, torch.randn(x0.shape, generator=g), t)
    parts = (x_t, t, ids, w.view(-1, 1, 1, 1))
    return EdgeBatch(*(part.to(config.device) for part in parts))
