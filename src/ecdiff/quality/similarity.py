"""PSNR, SSIM and detail: how close two pictures are, from their pixels alone."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from ecdiff.errors import InputError

WINDOW = 11  # pixels, of a Gaussian with SIGMA
SIGMA = 1.5


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB for a data range of 1; infinite for equal pictures.

    Raises InputError when the shapes differ.
    """
    check_pair(a, b)
    mse = (a.double() - b.double()).square().flatten(1).mean(1)
    return -10 * mse.log10()


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004): Gaussian window 11, sigma 1.5, data range 1.

    The mean over channels and over the positions where the window fits whole.
    Raises InputError when the shapes differ or a side is under 11 pixels.
    """
    check_pair(a, b)
    _check_window(a, "SSIM")
    a, b = a.double(), b.double()
    c1, c2 = 0.01**2, 0.03**2
    mu_a, mu_b = _blur(a), _blur(b)
    var_a = _blur(a * a) - mu_a**2
    var_b = _blur(b * b) - mu_b**2
    cov = _blur(a * b) - mu_a * mu_b
    luminance = (2 * mu_a * mu_b + c1) / (mu_a**2 + mu_b**2 + c1)
    structure = (2 * cov + c2) / (var_a + var_b + c2)
    return (luminance * structure).flatten(1).mean(1)


def detail(a: Tensor, b: Tensor) -> Tensor:
    """Energy of `a`'s high frequencies over that of `b`'s: 1 as sharp, less is smoother.

    High frequencies are what the Gaussian of sigma 1.5 takes away. Infinite where `b` has none
    and `a` has, 1 where neither has. Raises InputError as `ssim` does.
    """
    check_pair(a, b)
    _check_window(a, "detail")
    mine, other = _high_energy(a.double()), _high_energy(b.double())
    return torch.where((mine == 0) & (other == 0), torch.ones_like(mine), mine / other)


def check_pair(a: Tensor, b: Tensor) -> None:
    """Raises InputError unless both are [B, C, H, W] of one shape."""
    if a.shape != b.shape or a.ndim != 4:
        raise InputError(
            f"pictures of shapes {tuple(a.shape)} and {tuple(b.shape)}: "
            "compare two tensors [B, C, H, W] of one shape"
        )


def _check_window(a: Tensor, name: str) -> None:
    if min(a.shape[-2:]) < WINDOW:
        raise InputError(f"{name} needs pictures of at least 11x11, not {tuple(a.shape[-2:])}")


def _high_energy(x: Tensor) -> Tensor:
    margin = WINDOW // 2
    high = x[..., margin:-margin, margin:-margin] - _blur(x)
    return high.square().flatten(1).mean(1)


def _blur(x: Tensor) -> Tensor:
    reach = WINDOW // 2
    offsets = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    window = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    window = (window / window.sum()).expand(x.shape[1], 1, 1, WINDOW)
    x = conv2d(x, window, groups=x.shape[1])
    return conv2d(x, window.transpose(2, 3), groups=x.shape[1])
