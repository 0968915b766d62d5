"""Clips: the picture measures frame by frame, as the paper averages them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ecdiff.errors import InputError


def per_frame(measure: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """[B]: `measure` of each frame of clips [B, F, C, H, W], averaged over the frames.

    Raises InputError when the shapes differ, or what `measure` raises.
    """
    if a.shape != b.shape or a.ndim != 5:
        raise InputError(
            f"clips of shapes {tuple(a.shape)} and {tuple(b.shape)}: "
            "compare two tensors [B, F, C, H, W] of one shape"
        )
    return measure(a.flatten(0, 1), b.flatten(0, 1)).reshape(a.shape[:2]).mean(1)
