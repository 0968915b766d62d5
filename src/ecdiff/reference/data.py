"""Scenes as tensors: pictures, cached latents, token ids, and picture grids."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from transformers import CLIPTokenizer

from ecdiff.reference.canvas import SIDE
from ecdiff.reference.render import render
from ecdiff.reference.scenes import Scene, caption, training_scene

UNGUIDED_SHARE = 0.1  # captions left empty, so that guidance has something to push against


def picture_batch(scenes: Iterable[int | Scene]) -> torch.Tensor:
    """Pictures [B, 3, 128, 128] in [-1, 1] of scenes, or of the training scenes of these seeds."""
    arrays = [np.asarray(render(training_scene(s) if isinstance(s, int) else s)) for s in scenes]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def cached_latents(
    vae: AutoencoderKL, count: int, folder: Path, device: str = "cpu"
) -> torch.Tensor:
    """Scaled latents [count, 8, 16, 16] (float16) of training scenes 0..count-1, made once.

    The file's name carries a hash of the encoder, so that another one never reuses it.
    """
    path = folder / f"latents-{count}-{_encoder_hash(vae)}.pt"
    if path.exists():
        known: torch.Tensor = torch.load(path, weights_only=True)
        return known
    vae = vae.to(device).eval()
    parts = []
    for start in range(0, count, 64):
        x = picture_batch(range(start, min(start + 64, count))).to(device)
        with torch.autocast(x.device.type, torch.bfloat16):
            mean = vae.encode(x).latent_dist.mean
        parts.append((mean.float() * vae.config.scaling_factor).half().cpu())
        if start % 2048 == 0:
            print(f"latents {start}/{count}", flush=True)
    latents = torch.cat(parts)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(latents, path.with_suffix(".part"))
    path.with_suffix(".part").rename(path)
    return latents


def caption_ids(
    tokenizer: CLIPTokenizer, seeds: Iterable[int], generator: torch.Generator
) -> torch.Tensor:
    """Token ids [B, 32] of freshly worded captions; one in ten is empty."""
    rng = random.Random(int(torch.randint(2**31, (), generator=generator)))
    texts = [
        "" if rng.random() < UNGUIDED_SHARE else caption(training_scene(seed), rng)
        for seed in seeds
    ]
    return token_ids(tokenizer, texts)


def token_ids(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Token ids [B, 32], padded and cut as the stock pipeline does."""
    ids: torch.Tensor = tokenizer(
        texts, padding="max_length", truncation=True, return_tensors="pt",
        max_length=tokenizer.model_max_length,
    ).input_ids  # fmt: skip
    return ids


def save_grid(x: torch.Tensor, path: Path, columns: int) -> None:
    """Write pictures [B, 3, H, W] in [-1, 1] as one picture of `columns` columns."""
    tiles = ((x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * SIDE, rows * SIDE))
    for i, tile in enumerate(tiles):
        sheet.paste(Image.fromarray(tile), ((i % columns) * SIDE, (i // columns) * SIDE))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _encoder_hash(vae: AutoencoderKL) -> str:
    digest = hashlib.sha256(str(vae.config.scaling_factor).encode())
    for part in (vae.encoder, vae.quant_conv):
        for value in part.state_dict().values():
            digest.update(value.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:12]
