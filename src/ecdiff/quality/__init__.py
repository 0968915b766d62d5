"""How close two pictures are: PSNR and SSIM on tensors [B, C, H, W] in [0, 1], each giving [B]."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from ecdiff.errors import InputError


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB for a data range of 1; infinite for equal pictures.

    Raises InputError when the shapes differ.
    """
    _check_pair(a, b)
    mse = (a.double() - b.double()).square().flatten(1).mean(1)
    return -10 * mse.log10()


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004): Gaussian window 11, sigma 1.5, data range 1.

    The mean over channels and over the positions where the window fits whole.
    Raises InputError when the shapes differ or a side is under 11 pixels.
    """
    _check_pair(a, b)
    if min(a.shape[-2:]) < 11:
        raise InputError(f"SSIM needs pictures of at least 11x11, not {tuple(a.shape[-2:])}")
    a, b = a.double(), b.double()
    c1, c2 = 0.01**2, 0.03**2
    mu_a, mu_b = _blur(a), _blur(b)
    var_a = _blur(a * a) - mu_a**2
    var_b = _blur(b * b) - mu_b**2
    cov = _blur(a * b) - mu_a * mu_b
    luminance = (2 * mu_a * mu_b + c1) / (mu_a**2 + mu_b**2 + c1)
    structure = (2 * cov + c2) / (var_a + var_b + c2)
    return (luminance * structure).flatten(1).mean(1)


def _blur(x: Tensor) -> Tensor:
    offsets = torch.arange(-5, 6, dtype=x.dtype, device=x.device)
    window = torch.exp(-(offsets**2) / (2 * 1.5**2))
    window = (window / window.sum()).expand(x.shape[1], 1, 1, 11)
    x = conv2d(x, window, groups=x.shape[1])
    return conv2d(x, window.transpose(2, 3), groups=x.shape[1])


def _check_pair(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.ndim != 4:
        raise InputError(
            f"pictures of shapes {tuple(a.shape)} and {tuple(b.shape)}: "
            "compare two tensors [B, C, H, W] of one shape"
        )
