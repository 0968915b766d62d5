"""Train the video autoencoder on freshly drawn clips."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLCogVideoX

from ecdiff.quality import psnr
from ecdiff.reference.runs import Run, RunConfig
from ecdiff.reference.train_vae import SEEDS, vae_loss
from ecdiff.reference.video.clips import held_out_clips
from ecdiff.reference.video.data import clip_batch, save_sheet
from ecdiff.reference.video.models import measure_scale


def train_vae(config: RunConfig, vae: AutoencoderKLCogVideoX, decoder_only: bool = False) -> None:
    """Train `vae` in place (it ends up averaged).

    With `decoder_only` the encoder and its scaling stay as they are, so that models trained on its
    latents still fit. Otherwise the latents' scale is measured at the end.
    """
    vae.encoder.requires_grad_(not decoder_only)
    run = Run(config, {"vae": vae.train()})

    def loss_of_step(g: torch.Generator) -> torch.Tensor:
        seeds = torch.randint(SEEDS, (config.batch,), generator=g).tolist()
        return vae_loss(vae, clip_batch(seeds).to(config.device))

    run.train(loss_of_step, lambda r: _draw(r, vae))
    if not decoder_only:
        measure_scale(vae, clip_batch(range(256)).to(config.device))


@torch.no_grad()
def frame_psnr(vae: AutoencoderKLCogVideoX, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """PSNR (dB) of each frame after a round trip, [B, 9], and the rebuilt clips, as x."""
    parts = [vae.decode(vae.encode(p).latent_dist.mean).sample for p in torch.split(x, 16)]
    y = torch.cat(parts).float().clamp(-1, 1)
    a, b = ((v.transpose(1, 2).flatten(0, 1) + 1) / 2 for v in (x, y))
    return psnr(a, b).view(len(x), -1), y


@torch.no_grad()
def _draw(run: Run, vae: AutoencoderKLCogVideoX) -> None:
    """Held-out clips and below each what the averaged weights make of it; prints the PSNR."""
    x = clip_batch(held_out_clips(32)).to(run.config.device)
    with run.averaged():
        db, y = frame_psnr(vae, x)
    by_frame = " ".join(f"{v:.1f}" for v in db.mean(0).tolist())
    print(f"held-out PSNR {float(db.mean()):.2f} dB, by frame {by_frame}", flush=True)
    rows = [rows for i in range(0, 12, 3) for rows in (x[i : i + 3], y[i : i + 3])]
    save_sheet(torch.cat(rows), run.config.out / "progress.png", columns=3)
