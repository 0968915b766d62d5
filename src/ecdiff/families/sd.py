"""Stable Diffusion 1.x and its distilled relatives (BK-SDM): U-Net, CLIP text encoder, VAE."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ecdiff.errors import InputError, NonFiniteError
from ecdiff.families.base import LatentFamily, Row
from ecdiff.families.loading import Loader, check_vocabulary
from ecdiff.quiet import quiet_transformers
from ecdiff.request import Request
from ecdiff.trajectory import Conditioning, Trajectory


@dataclass(frozen=True)
class StableDiffusion(LatentFamily):
    """A U-Net of pictures; `network` is a UNet2DConditionModel."""

    tokenizer: Any  # CLIPTokenizer
    load_text_encoder: Callable[[], Any]  # CLIPTextModel
    load_vae: Callable[[], Any]  # AutoencoderKL or AutoencoderTiny
    vae_factor: int  # pixels per latent, along one side

    @property
    def unet(self) -> Any:
        return self.network

    @property
    def text_encoder(self) -> Any:
        return self.load_text_encoder()

    @property
    def vae(self) -> Any:
        return self.load_vae()

    @property
    def latent_channels(self) -> int:
        return int(self.unet.config.in_channels)

    def latent_shape(self, request: Request) -> tuple[int, int, int, int]:
        """[1, C, h, w]. Raises InputError for a clip, or a size the VAE or U-Net cannot halve."""
        if request.frames is not None:
            raise InputError(f"frames is {request.frames}: this model draws pictures, leave it out")
        if request.dynamic_guidance:
            raise InputError("dynamic guidance is CogVideoX's: this model has none, leave it out")
        levels = 2 ** (len(self.unet.config.block_out_channels) - 1)
        for name, pixels in (("height", request.height), ("width", request.width)):
            if pixels % self.vae_factor or pixels < self.vae_factor * levels:
                raise InputError(
                    f"{name} is {pixels}: this model needs a multiple of {self.vae_factor}, "
                    f"at least {self.vae_factor * levels}"
                )
        h, w = request.height // self.vae_factor, request.width // self.vae_factor
        return (1, self.latent_channels, h, w)

    @torch.no_grad()
    def encode(self, request: Request) -> Conditioning:
        """`prompt` and `negative`, each [1, L, D]."""
        return {
            "prompt": self._embed(request.prompt),
            "negative": self._embed(request.negative_prompt),
        }

    def _embed(self, text: str) -> Tensor:
        tokens = tokenize(self.tokenizer, text)
        mask = None
        if getattr(self.text_encoder.config, "use_attention_mask", False):
            mask = tokens.attention_mask.to(self.device)
        embeds: Tensor = self.text_encoder(tokens.input_ids.to(self.device), mask)[0]
        return embeds.to(self.dtype)

    def guides(self, trajectory: Trajectory) -> bool:
        """Never for a U-Net that takes the guidance as an input (LCM)."""
        return trajectory.guidance > 1 and not self.unet.config.time_cond_proj_dim

    def call(self, latents: Tensor, timesteps: Tensor, rows: Sequence[Row]) -> Tensor:
        noise: Tensor = self.unet(
            latents,
            timesteps,
            encoder_hidden_states=torch.cat([r.embedding() for r in rows]),
            timestep_cond=guidance_embedding(self.unet, rows),
            return_dict=False,
        )[0]
        return noise

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in [0, 1], float32.

        Raises NonFiniteError when the VAE overflows (float16 on some models).
        """
        return decode_pictures(self.vae, latents.to(self.device))


def tokenize(tokenizer: Any, text: str) -> Any:
    """Padded and cut to the tokenizer's own length: `input_ids` and `attention_mask` [1, L]."""
    return tokenizer(
        text,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )


def guidance_embedding(unet: Any, rows: Sequence[Row]) -> Tensor | None:
    """The guidance as an input [R, D] for a U-Net distilled to take it (LCM), else None.

    Sine and cosine features of 1000 (g - 1), as timesteps have them.
    """
    width = unet.config.time_cond_proj_dim
    if not width:
        return None
    w = torch.tensor([1000.0 * (row.trajectory.guidance - 1) for row in rows])
    half = width // 2
    rates = torch.exp(torch.arange(half) * (-torch.log(torch.tensor(10000.0)) / (half - 1)))
    angles = w[:, None] * rates
    features = torch.cat([angles.sin(), angles.cos(), torch.zeros(len(w), width % 2)], 1)
    weight = next(unet.parameters())
    return features.to(rows[0].trajectory.latents.device, weight.dtype)


def decode_pictures(vae: Any, latents: Tensor) -> Tensor:
    """Latents [B, C, h, w] to pictures [B, 3, H, W] in [0, 1], float32. Raises NonFiniteError."""
    config, dtype = vae.config, next(vae.parameters()).dtype
    scaled = latents.to(dtype) / config.scaling_factor
    if getattr(config, "latents_mean", None) and getattr(config, "latents_std", None):
        mean, std = (
            torch.tensor(values, device=latents.device, dtype=dtype).view(1, -1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        scaled = scaled * std + mean
    pictures: Tensor = vae.decode(scaled, return_dict=False)[0].float()
    if not pictures.isfinite().all():
        raise NonFiniteError(
            f"the VAE produced NaN or infinity in {dtype}: load the pair in float32"
        )
    return (pictures / 2 + 0.5).clamp(0, 1)


def vae_factor(config: dict[str, Any]) -> int:
    """Pixels per latent, along one side, from a VAE's configuration."""
    return int(2 ** (len(config["block_out_channels"]) - 1))


def load(loader: Loader, needs: frozenset[str]) -> StableDiffusion:
    """Load one side; parts not in `needs` ("text", "vae") are loaded when first used.

    Raises PairError naming the part that is missing.
    """
    with quiet_transformers():
        from diffusers import UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

    tokenizer = loader.tokenizer(CLIPTokenizer)
    text_encoder = loader.lazy(CLIPTextModel, "text_encoder", now="text" in needs)
    if "text" in needs:
        check_vocabulary(tokenizer, text_encoder(), loader.name)
    return StableDiffusion(
        loader.network(UNet2DConditionModel, "unet"),
        loader.scheduler_config(),
        loader.device,
        loader.dtype,
        tokenizer,
        text_encoder,
        loader.vae(now="vae" in needs),
        vae_factor(loader.config("vae")),
    )
