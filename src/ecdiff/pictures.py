"""Pictures as tensors, PIL images, PNG bytes and files."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ecdiff.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def to_pil(pictures: Tensor) -> list[Image.Image]:
    """[B, 3, H, W] in [0, 1] to 8-bit images."""
    pixels = (pictures * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in pixels]


def as_output(decoded: Tensor, output_type: str) -> Any:
    """Pictures [B, 3, H, W] or clips [B, F, 3, H, W] in [0, 1], as diffusers gives them.

    `pt` the tensor itself, `np` an array with the channels last, `pil` a list of images, or for
    clips a list of lists of frames.
    """
    if output_type == "pt":
        return decoded
    if output_type == "np":
        return decoded.movedim(-3, -1).cpu().numpy()
    return [to_pil(clip) for clip in decoded] if decoded.ndim == 5 else to_pil(decoded)


def to_png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "png")
    return file.getvalue()


def places(out: Path, count: int) -> list[Path]:
    """Where `count` pictures go: `out` itself, or `NAME-0.png`, `NAME-1.png`, ...

    Raises InputError when they could not be written. Leaves nothing behind.
    """
    if out.suffix.lower() not in FORMATS:
        raise InputError(f"cannot write {out}: end its name in {', '.join(FORMATS)}")
    paths = numbered(out, count)
    for path in paths:
        check_writable(path)
    return paths


def numbered(out: Path, count: int) -> list[Path]:
    """`out` for one file, `NAME-0`, `NAME-1`, ... with its suffix for several."""
    return [out] if count == 1 else [out.with_stem(f"{out.stem}-{j}") for j in range(count)]


def check_writable(path: Path) -> None:
    """Raises InputError for a file that could not be written. Leaves nothing behind."""
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder, name a file in it")
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {path.parent}, make it first")
    probe = beside(path)
    try:
        probe.open("xb").close()
        probe.unlink()
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error


def save(pictures: Sequence[Image.Image], paths: Sequence[Path]) -> None:
    """Write each picture whole or not at all, replacing what was there."""
    for picture, path in zip(pictures, paths, strict=True):
        unfinished = beside(path)
        try:
            with unfinished.open("xb") as file:
                picture.save(file, FORMATS[path.suffix.lower()])
            os.replace(unfinished, path)
        finally:
            with suppress(FileNotFoundError):
                unfinished.unlink()


def beside(path: Path) -> Path:
    """A name in the same folder, for a file that is not finished yet."""
    return path.with_name(f".{path.name}.{os.getpid()}.unfinished")
