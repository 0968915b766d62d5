"""Clips as tensors: frames, cached latents, token ids, and sheets of frames."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX
from PIL import Image
from transformers import T5Tokenizer

from ecdiff.reference.data import made_once, to_bytes, to_floats, token_ids, weights_hash
from ecdiff.reference.layout import CELLS, covered
from ecdiff.reference.video.clips import COLOURS, OBJECTS, SIDE, Clip, caption, training_clip
from ecdiff.reference.video.render import render

LATENT_FRAME_MIDDLES = (0.0, 2.5, 6.5)


def clip_batch(clips: Iterable[int | Clip]) -> torch.Tensor:
    """Frames [B, 3, 9, 64, 64] in [-1, 1] of clips, or of the training clips of these seeds."""
    arrays = [render(training_clip(c) if isinstance(c, int) else c) for c in clips]
    return to_floats(torch.from_numpy(np.stack(arrays)).permute(0, 4, 1, 2, 3))


def layout_labels(clips: list[Clip]) -> torch.Tensor:
    """Object and colour of every token of 8 x 8 pixels and its frames, [B, 2, 3 * 64].

    The class after the last one is "nothing". A latent frame stands for frame 0, or for four.
    """
    labels = torch.empty(len(clips), 2, len(LATENT_FRAME_MIDDLES), CELLS * CELLS, dtype=torch.long)
    labels[:, 0], labels[:, 1] = len(OBJECTS), len(COLOURS)
    for row, clip in zip(labels, clips, strict=True):
        for k, frame in enumerate(LATENT_FRAME_MIDDLES):
            inside = covered(*clip.place(frame), SIDE)
            row[0, k][inside] = OBJECTS.index(clip.what)
            row[1, k][inside] = COLOURS.index(clip.colour)
    return labels.flatten(2)


@torch.no_grad()
def cached_latents(
    vae: AutoencoderKLCogVideoX, count: int, folder: Path, device: str = "cpu"
) -> torch.Tensor:
    """Latents [count, 3, 8, 16, 16] (float16) of training clips 0..count-1, made once.

    Their variance is 1, for `vae` says the edge's scaling factor. The file's name carries a hash
    of the encoder, so that another one never reuses it.
    """
    encoder = weights_hash(vae.encoder, also=vae.config.scaling_factor)
    vae = vae.to(device).eval()

    def encode(seeds: range) -> torch.Tensor:
        x = clip_batch(seeds).to(device)
        with torch.autocast(x.device.type, torch.bfloat16):
            mean = vae.encode(x).latent_dist.mean
        scaled: torch.Tensor = (mean.float() * vae.config.scaling_factor).transpose(1, 2)
        return scaled

    return made_once(folder / f"latents-{count}-{encoder}.pt", count, 32, encode)


def caption_ids(
    tokenizer: T5Tokenizer, seeds: Iterable[int], generator: torch.Generator, unguided: float
) -> torch.Tensor:
    """Token ids [B, 16] of freshly worded captions; the share `unguided` of them is empty."""
    rng = random.Random(int(torch.randint(2**31, (), generator=generator)))
    texts = ["" if rng.random() < unguided else caption(training_clip(seed), rng) for seed in seeds]
    return token_ids(tokenizer, texts)


def save_sheet(x: torch.Tensor, path: Path, columns: int) -> None:
    """Write clips [B, 3, 9, 64, 64] in [-1, 1], every other frame, `columns` clips a row."""
    frames = to_bytes(x)[:, :, ::2].permute(0, 3, 2, 4, 1)
    strips = frames.flatten(2, 3).cpu().numpy()  # [B, 64, 5 * 64, 3]
    rows = -(-len(strips) // columns)
    sheet = Image.new("RGB", (columns * (strips.shape[2] + 4), rows * SIDE))
    for i, strip in enumerate(strips):
        at = (i % columns) * (strip.shape[1] + 4), (i // columns) * SIDE
        sheet.paste(Image.fromarray(np.ascontiguousarray(strip)), at)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
