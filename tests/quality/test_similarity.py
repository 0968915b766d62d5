"""PSNR, SSIM and detail against an independent library, on random and on drawn pictures."""

from __future__ import annotations

import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from ecdiff.errors import InputError
from ecdiff.quality import detail, per_frame, psnr, ssim


def random_pictures() -> torch.Tensor:
    return torch.rand((2, 3, 40, 33), generator=torch.Generator().manual_seed(0))


def drawn_pictures() -> torch.Tensor:
    from ecdiff.reference.data import picture_batch
    from ecdiff.reference.scenes import held_out_scenes

    return (picture_batch(held_out_scenes(2)) + 1) / 2


@pytest.mark.parametrize("source", [random_pictures, drawn_pictures])
@pytest.mark.parametrize("noise", [0.01, 0.1, 0.4])
def test_scikit_image_says_the_same(source: object, noise: float) -> None:
    a = source()  # type: ignore[operator]
    extra = torch.randn(a.shape, generator=torch.Generator().manual_seed(1))
    b = (a + noise * extra).clamp(0, 1)
    for x, y, p, s in zip(a, b, psnr(a, b).tolist(), ssim(a, b).tolist(), strict=True):
        one, two = x.double().numpy(), y.double().numpy()
        assert p == pytest.approx(peak_signal_noise_ratio(one, two, data_range=1), abs=1e-4)
        expected = structural_similarity(
            one, two, data_range=1, channel_axis=0, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False, K1=0.01, K2=0.03,
        )  # fmt: skip
        assert s == pytest.approx(expected, abs=1e-4)


def test_detail_tells_smoother_from_sharper() -> None:
    a = drawn_pictures()
    smooth = torch.nn.functional.avg_pool2d(a, 3, 1, 1)
    sharp = a + 0.05 * torch.randn(a.shape, generator=torch.Generator().manual_seed(2))
    assert detail(a, a).tolist() == [1.0, 1.0]
    assert (detail(smooth, a) < 0.7).all()
    assert (detail(sharp, a) > 1.1).all()
    assert torch.allclose(detail(smooth, a) * detail(a, smooth), torch.ones(2).double())
    plain = torch.full((1, 3, 16, 16), 0.5)
    assert detail(plain, plain).item() == 1.0


def test_a_clip_is_judged_frame_by_frame() -> None:
    g = torch.Generator().manual_seed(3)
    a, b = torch.rand((2, 4, 3, 16, 16), generator=g), torch.rand((2, 4, 3, 16, 16), generator=g)
    for measure in (psnr, ssim):
        expected = [torch.stack([measure(a[i], b[i])]).mean().item() for i in range(2)]
        assert per_frame(measure, a, b).tolist() == pytest.approx(expected)
    with pytest.raises(InputError, match="B, F, C, H, W"):
        per_frame(psnr, a[0], b[0])
