"""Train the autoencoder of the pair on freshly drawn scenes."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, AutoencoderKLCogVideoX

from ecdiff.quality import psnr
from ecdiff.reference.data import picture_batch, save_grid
from ecdiff.reference.runs import Run, RunConfig
from ecdiff.reference.scenes import held_out_scenes

KL_WEIGHT = 2e-4  # per latent element, against losses that are means over pixels in [-1, 1]
SEEDS = 10_000_000
LATENT_STD = 0.6  # below 1, so that fine texture settles late and the edge has work to do


def train_vae(config: RunConfig, vae: AutoencoderKL, decoder_only: bool = False) -> None:
    """Train `vae` in place (it ends up averaged).

    With `decoder_only` the encoder and its scaling stay as they are, so that models trained on its
    latents still fit. Otherwise the latents are centred and their scale is measured at the end.
    """
    for part in (vae.encoder, vae.quant_conv):
        part.requires_grad_(not decoder_only)
    run = Run(config, {"vae": vae})
    run.train(lambda g: vae_loss(vae, _batch(config, g)), lambda r: _draw(r, vae))
    if not decoder_only:
        centre_latents(vae, picture_batch(range(512)).to(config.device))


def vae_loss(vae: AutoencoderKL | AutoencoderKLCogVideoX, x: torch.Tensor) -> torch.Tensor:
    """Pixel and edge differences plus a small KL term; pixels x [B, 3, ..., H, W] in [-1, 1]."""
    with torch.autocast(x.device.type, torch.bfloat16):
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample()).sample
    d = y.float() - x
    edges = d.diff(dim=-2).abs().mean() + d.diff(dim=-1).abs().mean()
    kl = posterior.kl().float().mean() / posterior.mean[0].numel()
    loss: torch.Tensor = d.abs().mean() + 3 * d.pow(2).mean() + 0.5 * edges + KL_WEIGHT * kl
    return loss


@torch.no_grad()
def centre_latents(vae: AutoencoderKL, x: torch.Tensor) -> None:
    """Give every latent channel mean 0, and scale them all to a standard deviation of 0.6.

    The shift is folded into the 1 x 1 convolutions around the latents: pictures stay the same.
    """
    vae.eval()
    z = torch.cat([vae.encode(part).latent_dist.mean for part in torch.split(x, 32)])
    mean = z.mean((0, 2, 3))
    vae.quant_conv.bias[: len(mean)] -= mean
    vae.post_quant_conv.bias += vae.post_quant_conv.weight[:, :, 0, 0] @ mean
    spread = float((z - mean[:, None, None]).std())
    vae.register_to_config(scaling_factor=round(LATENT_STD / spread, 5))


def _batch(config: RunConfig, generator: torch.Generator) -> torch.Tensor:
    seeds = torch.randint(SEEDS, (config.batch,), generator=generator).tolist()
    return picture_batch(seeds).to(config.device)


@torch.no_grad()
def _draw(run: Run, vae: AutoencoderKL) -> None:
    """Held-out scenes and below them what the averaged weights make of them; prints the PSNR."""
    x = picture_batch(held_out_scenes(16)).to(run.config.device)
    with run.averaged():
        y = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
    db = float(psnr((x + 1) / 2, (y + 1) / 2).mean())
    print(f"held-out PSNR {db:.2f} dB", flush=True)
    save_grid(torch.cat([x[:8], y[:8], x[8:], y[8:]]), run.config.out / "progress.png", columns=8)
