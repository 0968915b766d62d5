"""How alike two picture files are: the measures of `ecdiff.quality`, without a claim."""

from __future__ import annotations

import json
from math import isfinite
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ecdiff.bench.sheet import Sheet, shown
from ecdiff.errors import InputError
from ecdiff.quality import detail, lpips, psnr, ssim
from ecdiff.quality.perceptual import find_weights


def run(
    picture: Annotated[Path, typer.Argument(help="The picture to judge.")],
    other: Annotated[Path, typer.Argument(help="The picture it is held against.")],
    net: Annotated[
        Literal["alex", "vgg"] | None,
        typer.Option("--lpips", help="LPIPS too, of this network; its weights must be here."),
    ] = None,
) -> None:
    """PSNR, SSIM, detail and LPIPS of two picture files."""
    if net:
        find_weights(net)
    a, b = read(picture), read(other)
    figures = {name: float(of(a, b)) for name, of in (("psnr", psnr), ("ssim", ssim))}
    figures["detail"] = float(detail(a, b))
    if net:
        figures[f"lpips_{net}"] = float(lpips(a, b, net))
    headings = ["picture", *figures]
    cells = [picture.name, *(shown(value, 4) for value in figures.values())]
    Sheet(f"against {other.name}", headings, [cells]).show()
    print(json.dumps({name: v if isfinite(v) else None for name, v in figures.items()}))


def read(path: Path) -> Tensor:
    """[1, 3, H, W] in [0, 1]. Raises InputError for a file that is no picture."""
    try:
        with Image.open(path) as picture:
            raw, (width, height) = picture.convert("RGB").tobytes(), picture.size
    except (OSError, UnidentifiedImageError) as error:
        reason = getattr(error, "strerror", None) or "it is not a picture"
        raise InputError(f"cannot read {path}: {reason}") from error
    pixels = torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(1, height, width, 3)
    return pixels.permute(0, 3, 1, 2).float() / 255
