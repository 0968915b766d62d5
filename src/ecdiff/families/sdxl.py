"""Stable Diffusion XL and its distilled relatives (SSD-1B, Vega): two text encoders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ecdiff.families.base import Row
from ecdiff.families.loading import Loader, check_vocabulary
from ecdiff.families.sd import StableDiffusion, guidance_embedding, tokenize, vae_factor
from ecdiff.quiet import quiet_transformers
from ecdiff.request import Request
from ecdiff.trajectory import Conditioning


@dataclass(frozen=True)
class StableDiffusionXL(StableDiffusion):
    """A U-Net that also takes a pooled text embedding and the picture's size."""

    tokenizer_2: Any  # CLIPTokenizer
    load_text_encoder_2: Callable[[], Any]  # CLIPTextModelWithProjection
    zeros_for_no_negative: bool  # an empty negative prompt is zeros, not an encoded ""

    @torch.no_grad()
    def encode(self, request: Request) -> Conditioning:
        """`prompt` and `negative` [1, L, D1 + D2], and `prompt_pooled`, `negative_pooled` [1, P].

        The picture's size needs no encoding: every row has its request at hand.
        """
        prompt, pooled = self._embed_both(request.prompt)
        if not request.negative_prompt and self.zeros_for_no_negative:
            negative, negative_pooled = torch.zeros_like(prompt), torch.zeros_like(pooled)
        else:
            negative, negative_pooled = self._embed_both(request.negative_prompt)
        return {
            "prompt": prompt,
            "negative": negative,
            "prompt_pooled": pooled,
            "negative_pooled": negative_pooled,
        }

    def _embed_both(self, text: str) -> tuple[Tensor, Tensor]:
        """The last but one hidden states side by side, and the second encoder's projection."""
        states, pooled = [], None
        for tokenizer, encoder in (
            (self.tokenizer, self.text_encoder),
            (self.tokenizer_2, self.load_text_encoder_2()),
        ):
            ids = tokenize(tokenizer, text).input_ids.to(self.device)
            out = encoder(ids, output_hidden_states=True)
            states.append(out.hidden_states[-2])
            pooled = out[0]
        assert pooled is not None
        return torch.cat(states, -1).to(self.dtype), pooled.to(self.dtype)

    def call(self, latents: Tensor, timesteps: Tensor, rows: Sequence[Row]) -> Tensor:
        size = [(r.trajectory.request.height, r.trajectory.request.width) for r in rows]
        ids = torch.tensor([[h, w, 0, 0, h, w] for h, w in size], dtype=self.dtype)
        added = {
            "text_embeds": torch.cat([r.embedding("_pooled") for r in rows]),
            "time_ids": ids.to(self.device),  # original size, crop's corner, target size
        }
        noise: Tensor = self.unet(
            latents,
            timesteps,
            encoder_hidden_states=torch.cat([r.embedding() for r in rows]),
            timestep_cond=guidance_embedding(self.unet, rows),
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
        return noise


def load(loader: Loader, needs: frozenset[str]) -> StableDiffusionXL:
    """Load one side; parts not in `needs` ("text", "vae") are loaded when first used.

    In float16 a VAE that overflows there (`force_upcast`) is loaded in float32.
    Raises PairError naming the part that is missing.
    """
    with quiet_transformers():
        from diffusers import UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    text = "text" in needs
    tokenizers = [loader.tokenizer(CLIPTokenizer, name) for name in ("tokenizer", "tokenizer_2")]
    encoders = [
        loader.lazy(CLIPTextModel, "text_encoder", now=text),
        loader.lazy(CLIPTextModelWithProjection, "text_encoder_2", now=text),
    ]
    if text:
        for tokenizer, encoder in zip(tokenizers, encoders, strict=True):
            check_vocabulary(tokenizer, encoder(), loader.name)
    vae = loader.config("vae")
    upcast = loader.dtype == torch.float16 and vae.get("force_upcast", True)
    return StableDiffusionXL(
        loader.network(UNet2DConditionModel, "unet"),
        loader.scheduler_config(),
        loader.device,
        loader.dtype,
        tokenizers[0],
        encoders[0],
        loader.vae("vae" in needs, torch.float32 if upcast else None),
        vae_factor(vae),
        tokenizers[1],
        encoders[1],
        loader.pipeline_config().get("force_zeros_for_empty_prompt", True),
    )
