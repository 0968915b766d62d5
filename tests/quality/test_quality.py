from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ecdiff.errors import InputError
from ecdiff.quality import psnr, ssim


def plain_psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 20 * math.log10(1.0 / math.sqrt(((a - b) ** 2).mean()))


def plain_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004, one window at a time. `a`, `b`: [C, H, W]."""
    offsets = np.arange(-5, 6)
    one = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(one, one) / np.outer(one, one).sum()
    c1, c2 = 0.01**2, 0.03**2
    values = []
    for x, y in zip(a, b, strict=True):
        for top in range(x.shape[0] - 10):
            for left in range(x.shape[1] - 10):
                u = x[top : top + 11, left : left + 11]
                v = y[top : top + 11, left : left + 11]
                mu, nu = (window * u).sum(), (window * v).sum()
                var_u = (window * (u - mu) ** 2).sum()
                var_v = (window * (v - nu) ** 2).sum()
                cov = (window * (u - mu) * (v - nu)).sum()
                numerator = (2 * mu * nu + c1) * (2 * cov + c2)
                values.append(numerator / ((mu**2 + nu**2 + c1) * (var_u + var_v + c2)))
    return float(np.mean(values))


@pytest.fixture
def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a = torch.rand((3, 3, 17, 14), generator=generator)
    noise = torch.randn(a.shape, generator=generator) * torch.tensor([0.01, 0.1, 0.5]).view(
        3, 1, 1, 1
    )
    return a, (a + noise).clamp(0, 1)


def test_psnr_equals_a_plain_implementation(pictures: tuple[torch.Tensor, torch.Tensor]) -> None:
    a, b = pictures
    expected = [
        plain_psnr(x, y) for x, y in zip(a.double().numpy(), b.double().numpy(), strict=True)
    ]
    assert psnr(a, b).tolist() == pytest.approx(expected, abs=1e-6)


def test_ssim_equals_a_plain_implementation(pictures: tuple[torch.Tensor, torch.Tensor]) -> None:
    a, b = pictures
    expected = [
        plain_ssim(x, y) for x, y in zip(a.double().numpy(), b.double().numpy(), strict=True)
    ]
    assert ssim(a, b).tolist() == pytest.approx(expected, abs=1e-9)
    assert expected == sorted(expected, reverse=True)  # more noise, less alike


def test_identical_pictures(pictures: tuple[torch.Tensor, torch.Tensor]) -> None:
    a, _ = pictures
    assert psnr(a, a).tolist() == [math.inf] * 3
    assert ssim(a, a).tolist() == pytest.approx([1.0] * 3, abs=1e-12)
    black = torch.zeros(1, 3, 16, 16)
    assert ssim(black, black).item() == 1.0


def test_both_are_symmetric(pictures: tuple[torch.Tensor, torch.Tensor]) -> None:
    a, b = pictures
    assert torch.equal(psnr(a, b), psnr(b, a))
    assert torch.allclose(ssim(a, b), ssim(b, a))


def test_a_known_difference() -> None:
    a = torch.zeros(1, 3, 16, 16)
    assert psnr(a, a + 0.1).item() == pytest.approx(20.0, abs=1e-5)


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_shapes_must_agree(measure: object) -> None:
    with pytest.raises(InputError, match="16, 16"):
        measure(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 17))  # type: ignore[operator]
    with pytest.raises(InputError):
        measure(torch.zeros(3, 16, 16), torch.zeros(3, 16, 16))  # type: ignore[operator]


def test_ssim_needs_a_whole_window() -> None:
    with pytest.raises(InputError, match="11x11"):
        ssim(torch.zeros(1, 3, 10, 16), torch.zeros(1, 3, 10, 16))
