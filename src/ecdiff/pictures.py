"""Pictures as tensors, PIL images and PNG bytes."""

from __future__ import annotations

import io

from PIL import Image
from torch import Tensor


def to_pil(pictures: Tensor) -> list[Image.Image]:
    """[B, 3, H, W] in [0, 1] to 8-bit images."""
    pixels = (pictures * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in pixels]


def to_png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "png")
    return file.getvalue()
