"""Scenes as tensors: pictures, cached latents, token ids, and picture grids."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import nn
from transformers import CLIPTokenizer, T5Tokenizer

from ecdiff.reference.canvas import SIDE
from ecdiff.reference.render import render
from ecdiff.reference.runs import save_whole
from ecdiff.reference.scenes import Scene, caption, training_scene

UNGUIDED_SHARE = 0.1  # captions left empty, so that guidance has something to push against


def picture_batch(scenes: Iterable[int | Scene]) -> torch.Tensor:
    """Pictures [B, 3, 128, 128] in [-1, 1] of scenes, or of the training scenes of these seeds."""
    arrays = [np.asarray(render(training_scene(s) if isinstance(s, int) else s)) for s in scenes]
    return to_floats(torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2))


@torch.no_grad()
def cached_latents(
    vae: AutoencoderKL, count: int, folder: Path, device: str = "cpu"
) -> torch.Tensor:
    """Scaled latents [count, 16, 16, 16] (float16) of training scenes 0..count-1, made once.

    The file's name carries a hash of the encoder, so that another one never reuses it.
    """
    encoder = weights_hash(vae.encoder, vae.quant_conv, also=vae.config.scaling_factor)
    vae = vae.to(device).eval()

    def encode(seeds: range) -> torch.Tensor:
        x = picture_batch(seeds).to(device)
        with torch.autocast(x.device.type, torch.bfloat16):
            mean = vae.encode(x).latent_dist.mean
        scaled: torch.Tensor = mean.float() * vae.config.scaling_factor
        return scaled

    return made_once(folder / f"latents-{count}-{encoder}.pt", count, 64, encode)


def made_once(
    path: Path, count: int, chunk: int, encode: Callable[[range], torch.Tensor]
) -> torch.Tensor:
    """The float16 tensor at `path`; where there is none, `encode` of 0..count-1 in chunks."""
    if path.exists():
        known: torch.Tensor = torch.load(path, weights_only=True)
        return known
    parts = []
    for start in range(0, count, chunk):
        parts.append(encode(range(start, min(start + chunk, count))).half().cpu())
        if start % (32 * chunk) == 0:
            print(f"latents {start}/{count}", flush=True)
    made = torch.cat(parts)
    save_whole(made, path)
    return made


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


def token_ids(tokenizer: CLIPTokenizer | T5Tokenizer, texts: list[str]) -> torch.Tensor:
    """Token ids [B, L], padded and cut as the stock pipeline does."""
    ids: torch.Tensor = tokenizer(
        texts, padding="max_length", truncation=True, return_tensors="pt",
        max_length=tokenizer.model_max_length,
    ).input_ids  # fmt: skip
    return ids


def save_grid(x: torch.Tensor, path: Path, columns: int) -> None:
    """Write pictures [B, 3, H, W] in [-1, 1] as one picture of `columns` columns."""
    tiles = to_bytes(x).permute(0, 2, 3, 1).cpu().numpy()
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * SIDE, rows * SIDE))
    for i, tile in enumerate(tiles):
        sheet.paste(Image.fromarray(tile), ((i % columns) * SIDE, (i // columns) * SIDE))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def to_bytes(x: torch.Tensor) -> torch.Tensor:
    """Pixels in [-1, 1] as bytes."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().byte()


def to_floats(x: torch.Tensor) -> torch.Tensor:
    """Bytes as pixels in [-1, 1]."""
    return x.float() / 127.5 - 1


def weights_hash(*parts: nn.Module, also: object = "") -> str:
    """A short hash of these modules' weights."""
    digest = hashlib.sha256(str(also).encode())
    for part in parts:
        for value in part.state_dict().values():
            digest.update(value.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:12]
