"""Train the cloud model: its U-Net, and its text encoder further."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from ecdiff.reference.data import cached_latents, caption_ids, save_grid, token_ids
from ecdiff.reference.layout import BackgroundHead, LayoutHead, backgrounds, layout_labels
from ecdiff.reference.models import new_scheduler, pipeline, written_out_attention
from ecdiff.reference.runs import Run, RunConfig
from ecdiff.reference.scenes import caption, held_out_scenes, training_scene

GUIDANCE = 3.0
MIN_SNR = 5.0
LAYOUT_WEIGHT = 0.1


@dataclass(frozen=True)
class Pair:
    """The cloud's modules."""

    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    cloud: UNet2DConditionModel


@dataclass(frozen=True)
class Noised:
    """A training batch: `x_t` = sqrt(abar) x_0 + sqrt(1 - abar) eps, each [B, 16, 16, 16]."""

    x_t: torch.Tensor
    t: torch.Tensor  # [B]
    eps: torch.Tensor
    ids: torch.Tensor  # [B, 32]
    labels: torch.Tensor  # [B, 2, 64], the layout
    backgrounds: torch.Tensor  # [B]
    weight: torch.Tensor  # [B], min(SNR, 5) / SNR


def train_cloud(config: RunConfig, pair: Pair, scenes: int, export: Callable[[], None]) -> None:
    """Train the cloud's U-Net and text encoder on `scenes` cached scenes.

    Every few minutes and at the end `export` is called while the modules hold averaged weights.
    """
    latents = cached_latents(pair.vae, scenes, config.out.parent, config.device)
    head = LayoutHead(pair.cloud.config.block_out_channels[-1])
    place = BackgroundHead(pair.text_encoder.config.hidden_size)
    modules = {"unet": pair.cloud, "text_encoder": pair.text_encoder, "head": head, "place": place}
    run = Run(config, {name: module.train() for name, module in modules.items()})
    written_out_attention(pair.cloud)
    written_out_attention(pair.text_encoder)
    seen = record_blocks(pair.cloud, ("mid_block",))
    nothing = token_ids(pair.tokenizer, [""]).to(config.device)

    def loss_of_step(g: torch.Generator) -> torch.Tensor:
        b = noised_batch(latents, pair.tokenizer, config, g)
        with torch.autocast(config.device, torch.bfloat16):
            text = pair.text_encoder(b.ids).last_hidden_state
            pred = pair.cloud(b.x_t, b.t, text).sample
        layout = head.loss(seen["mid_block"].flatten(2).mT, b.labels)
        told = place.loss(text, b.backgrounds, (b.ids == nothing).all(1))
        return weighted_mse(pred, b.eps, b.weight) + LAYOUT_WEIGHT * (layout + told)

    run.train(loss_of_step, lambda r: draw_progress(r, pair, pair.cloud, export))


def noised_batch(
    latents: torch.Tensor, tokenizer: CLIPTokenizer, config: RunConfig, g: torch.Generator
) -> Noised:
    """Draw scenes, captions, noise and timesteps (stratified over the batch) from `g`."""
    n = config.batch
    seeds = torch.randint(len(latents), (n,), generator=g)
    x0 = latents[seeds].float()
    eps = torch.randn(x0.shape, generator=g)
    t = (1000 * stratified(n, g)).long()
    abar = new_scheduler().alphas_cumprod[t]
    a = abar[:, None, None, None]
    snr = abar / (1 - abar)
    ids = caption_ids(tokenizer, seeds.tolist(), g)
    scenes = [training_scene(seed) for seed in seeds.tolist()]
    x_t = a.sqrt() * x0 + (1 - a).sqrt() * eps
    told = layout_labels(scenes), backgrounds(scenes)
    parts = (x_t, t, eps, ids, *told, snr.clamp(max=MIN_SNR) / snr)
    return Noised(*(part.to(config.device) for part in parts))


def stratified(n: int, g: torch.Generator) -> torch.Tensor:
    """n uniform draws from [0, 1), one from each n-th of it, in order."""
    return ((torch.arange(n) + torch.rand(n, generator=g)) / n).clamp(max=1 - 1e-6)


def weighted_mse(pred: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of pred and target [B, ...], each member by its weight [B]."""
    return (weight * (pred.float() - target.float()).pow(2).flatten(1).mean(1)).mean()


def record_blocks(network: nn.Module, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Hook a network so that the returned dict always holds its blocks' latest outputs."""
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            seen[name] = output[0] if isinstance(output, tuple) else output

        return hook

    for name in names:
        network.get_submodule(name).register_forward_hook(keep(name))
    return seen


def features_apart(got: Iterable[torch.Tensor], wanted: Iterable[torch.Tensor]) -> torch.Tensor:
    """Squared differences of two networks' block outputs, over the wanted ones' squares, summed."""
    apart = [
        (a.float() - b.float()).pow(2).mean() / b.float().pow(2).mean()
        for a, b in zip(got, wanted, strict=True)
    ]
    return torch.stack(apart).sum()


@torch.no_grad()
def draw_progress(
    run: Run, pair: Pair, unet: UNet2DConditionModel, export: Callable[[], None]
) -> None:
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
