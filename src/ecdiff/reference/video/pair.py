"""Train the cloud's transformer and text encoder, and distil the edge's transformer from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
from transformers import T5EncoderModel, T5Tokenizer

from ecdiff.plan import Site
from ecdiff.reference.layout import LayoutHead
from ecdiff.reference.runs import Run, RunConfig
from ecdiff.reference.train_pair import features_apart, record_blocks, stratified, weighted_mse
from ecdiff.reference.video.clips import (
    COLOURS,
    OBJECTS,
    caption,
    held_out_clips,
    training_clip,
)
from ecdiff.reference.video.data import cached_latents, caption_ids, layout_labels, save_sheet
from ecdiff.reference.video.models import (
    SCALE_RATIO,
    WIDTH,
    draw,
    new_scheduler,
    pipeline,
    rotary,
)

GUIDANCE = 4.5
SNR_CAP = 5.0
FEATURE_WEIGHT = 0.1
LAYOUT_LAYER = "transformer_blocks.3"  # of the cloud's six, whose output tells the layout
LAYOUT_WEIGHT = 0.1
CLOUD_UNGUIDED = 0.1  # share of empty captions, so that guidance has something to push against
EDGE_UNGUIDED = 0.35  # guidance multiplies both predictions' errors alike
EDGE_LATE = 1.5  # t = 1000 u^1.5: the edge mostly finishes what the cloud began
EDGE_BLOCKS = ("transformer_blocks.0", "transformer_blocks.1")
CLOUD_BLOCKS = ("transformer_blocks.2", "transformer_blocks.5")  # what the edge's learn to match


@dataclass(frozen=True)
class Pair:
    """The cloud's modules; the autoencoder's scaling factor is the edge's."""

    vae: AutoencoderKLCogVideoX
    text_encoder: T5EncoderModel
    tokenizer: T5Tokenizer
    cloud: CogVideoXTransformer3DModel


@dataclass(frozen=True)
class Noised:
    """One site's view of a batch: x_t = a x_0 + b eps and v = a eps - b x_0, [B, 3, 8, 16, 16].

    a and b are the square roots of abar and 1 - abar, each [B, 1, 1, 1, 1].
    """

    x_t: torch.Tensor
    v: torch.Tensor
    a: torch.Tensor
    b: torch.Tensor
    weight: torch.Tensor  # [B]


@dataclass(frozen=True)
class Batch:
    """Clean latents of variance 1, noise, timesteps and captions, before any site's scale."""

    z: torch.Tensor  # [B, 3, 8, 16, 16]
    eps: torch.Tensor
    t: torch.Tensor  # [B]
    ids: torch.Tensor  # [B, 16]
    labels: torch.Tensor  # [B, 2, 192], the layout

    def noised(self, site: Site) -> Noised:
        """The same clips and noise at the site's own latent scale and schedule."""
        scale = SCALE_RATIO if site == "cloud" else 1.0
        x_0 = scale * self.z
        abar = new_scheduler(site).alphas_cumprod.float().to(x_0.device)[self.t]
        snr = scale**2 * abar / (1 - abar)
        a, b = (s.sqrt()[:, None, None, None, None] for s in (abar, 1 - abar))
        weight = (snr.clamp(max=SNR_CAP) + 1) / (snr + 1)  # of v: 1 down to the cap, then falling
        return Noised(a * x_0 + b * self.eps, a * self.eps - b * x_0, a, b, weight)


def draw_batch(
    latents: torch.Tensor,
    tokenizer: T5Tokenizer,
    config: RunConfig,
    g: torch.Generator,
    unguided: float = CLOUD_UNGUIDED,
    late: float = 1.0,
) -> Batch:
    """Draw clips, captions, noise and timesteps (stratified over the batch) from `g`."""
    n = config.batch
    seeds = torch.randint(len(latents), (n,), generator=g)
    z = latents[seeds].float()
    eps = torch.randn(z.shape, generator=g)
    t = (1000 * stratified(n, g) ** late).long()
    ids = caption_ids(tokenizer, seeds.tolist(), g, unguided)
    labels = layout_labels([training_clip(seed) for seed in seeds.tolist()])
    return Batch(*(part.to(config.device) for part in (z, eps, t, ids, labels)))


def train_cloud(config: RunConfig, pair: Pair, clips: int, export: Callable[[], None]) -> None:
    """Train the cloud's transformer and text encoder on `clips` cached clips.

    Every few minutes and at the end `export` is called while the modules hold averaged weights.
    """
    latents = cached_latents(pair.vae, clips, config.out.parent, config.device)
    head = LayoutHead(WIDTH, len(OBJECTS), len(COLOURS))
    modules = {  # the shared embedding first, by a name that keeps it from the matrix optimiser
        "embedding": pair.text_encoder.shared.train(),
        "transformer": pair.cloud.train(),
        "text_encoder": pair.text_encoder.train(),
        "head": head,
    }
    run = Run(config, modules)
    waves, seen = rotary(pair.cloud), record_blocks(pair.cloud, (LAYOUT_LAYER,))

    def loss_of_step(g: torch.Generator) -> torch.Tensor:
        batch = draw_batch(latents, pair.tokenizer, config, g)
        x = batch.noised("cloud")
        with torch.autocast(config.device, torch.bfloat16):
            text = pair.text_encoder(batch.ids).last_hidden_state
            v = pair.cloud(x.x_t, text, batch.t, image_rotary_emb=waves).sample
        layout = head.loss(seen[LAYOUT_LAYER], batch.labels)
        return weighted_mse(v, x.v, x.weight) + LAYOUT_WEIGHT * layout

    run.train(loss_of_step, lambda r: _draw(r, pair, "cloud", pair.cloud, export))


def train_edge(
    config: RunConfig,
    pair: Pair,
    edge: CogVideoXTransformer3DModel,
    clips: int,
    export: Callable[[], None],
) -> None:
    """Distil the edge's transformer: the task's loss, the cloud's output, and layers' outputs.

    The two stand at different scales and signal-to-noise ratios. The cloud sees its own x_t of
    the same clip and noise; its predicted x_0, at the edge's scale, sets the edge's v.
    """
    latents = cached_latents(pair.vae, clips, config.out.parent, config.device)
    run = Run(config, {"transformer": edge.train()})
    teacher = pair.cloud.to(config.device).eval().requires_grad_(False)
    text_encoder = pair.text_encoder.to(config.device).eval().requires_grad_(False)
    waves = rotary(teacher)
    wanted, got = record_blocks(teacher, CLOUD_BLOCKS), record_blocks(edge, EDGE_BLOCKS)

    def loss_of_step(g: torch.Generator) -> torch.Tensor:
        batch = draw_batch(latents, pair.tokenizer, config, g, EDGE_UNGUIDED, EDGE_LATE)
        theirs, own = batch.noised("cloud"), batch.noised("edge")
        with torch.autocast(config.device, torch.bfloat16):
            with torch.no_grad():
                text = text_encoder(batch.ids).last_hidden_state
                v = teacher(theirs.x_t, text, batch.t, image_rotary_emb=waves).sample
            predicted = edge(own.x_t, text, batch.t).sample
        target = edge_v(theirs, own, v.float())
        features = features_apart((got[k] for k in EDGE_BLOCKS), (wanted[k] for k in CLOUD_BLOCKS))
        task = weighted_mse(predicted, own.v, own.weight)
        return task + 2 * weighted_mse(predicted, target, own.weight) + FEATURE_WEIGHT * features

    run.train(loss_of_step, lambda r: _draw(r, pair, "edge", edge, export))


def edge_v(cloud: Noised, edge: Noised, v: torch.Tensor) -> torch.Tensor:
    """The edge's v that says the same x_0 as the cloud's prediction `v` of the same batch.

    x_0 = a_c x_c - b_c v; at the edge's scale x_0 / r, and v_e = (a_e x_e - x_0 / r) / b_e.
    """
    x_0 = (cloud.a * cloud.x_t - cloud.b * v) / SCALE_RATIO
    return (edge.a * edge.x_t - x_0) / edge.b


@torch.no_grad()
def _draw(
    run: Run,
    pair: Pair,
    site: Site,
    transformer: CogVideoXTransformer3DModel,
    export: Callable[[], None],
) -> None:
    """With averaged weights in place, export and draw held-out prompts in 20 steps."""
    with run.averaged(), torch.autocast(run.config.device, torch.bfloat16):
        export()
        parts = pair.vae, pair.text_encoder, pair.tokenizer, transformer
        pipe = pipeline(site, *parts).to(run.config.device)
        prompts = [caption(clip) for clip in held_out_clips(24)]
        clips = draw(pipe, prompts, GUIDANCE, steps=20)
    save_sheet(clips, run.config.out / "progress.png", columns=3)
