"""The autoencoder's start and the bookkeeping around its latents."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL

from ecdiff.quality import psnr, ssim
from ecdiff.reference.data import picture_batch
from ecdiff.reference.models import LATENT_CHANNELS, new_vae
from ecdiff.reference.train_vae import LATENT_STD, centre_latents


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    return new_vae().eval()


@torch.no_grad()
def test_the_untrained_encoder_is_a_principal_component_analysis(vae: AutoencoderKL) -> None:
    x = picture_batch(range(400, 432))
    z = vae.encode(x).latent_dist.mean
    patches = torch.nn.functional.unfold(x, 8, stride=8).transpose(1, 2).reshape(-1, 192)
    codes = z.flatten(2).transpose(1, 2).reshape(-1, LATENT_CHANNELS)
    codes = torch.cat([codes, torch.ones(len(codes), 1)], 1)
    rest = patches - codes @ torch.linalg.lstsq(codes, patches).solution
    from_codes = -10 * torch.log10(rest.square().mean() / 4)
    best = torch.linalg.eigvalsh(torch.cov(patches.T))[:-LATENT_CHANNELS].sum() / 192
    assert from_codes > -10 * torch.log10(best / 4) - 0.6


@torch.no_grad()
def test_centring_changes_latents_but_not_pictures(vae: AutoencoderKL) -> None:
    x = picture_batch(range(16))
    before = vae.decode(vae.encode(x).latent_dist.mean).sample
    centre_latents(vae, x)
    z = vae.encode(x).latent_dist.mean
    assert torch.allclose(vae.decode(z).sample, before, atol=1e-4)
    assert z.mean((0, 2, 3)).abs().max() < 1e-4
    assert abs(float(z.std()) * vae.config.scaling_factor - LATENT_STD) < 1e-3


def test_quality_measures_order_pictures_by_damage() -> None:
    x = (picture_batch(range(4)) + 1) / 2
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    little, much = (x + 0.02 * noise).clamp(0, 1), (x + 0.1 * noise).clamp(0, 1)
    assert bool((psnr(x, little) > psnr(x, much)).all())
    assert bool((ssim(x, little) > ssim(x, much)).all())
    assert bool((ssim(x, x) > 0.9999).all())
