"""CogVideoX 2B and 5B: a transformer of clips, T5, v-prediction. Latents are [1, F, C, h, w].

The network's guided output is v. It is extrapolated as it is; a phase whose `space` is "epsilon"
converts it first. CogVideoX 1.5, which patches time too, is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import cos, pi
from typing import Any, ClassVar

import torch
from torch import Tensor

from ecdiff.errors import InputError, NonFiniteError, PairError, PayloadError
from ecdiff.families import schedulers
from ecdiff.families.base import LatentFamily, Row
from ecdiff.families.loading import Loader, check_vocabulary
from ecdiff.quiet import quiet_transformers
from ecdiff.request import Request
from ecdiff.trajectory import Conditioning, Trajectory


@dataclass(frozen=True)
class CogVideoX(LatentFamily):
    """`network` is a CogVideoXTransformer3DModel."""

    schedulers: ClassVar[Mapping[str, Any]] = schedulers.COGVIDEOX_CLASSES

    load_tokenizer: Callable[[], Any]  # T5Tokenizer
    load_text_encoder: Callable[[], Any]  # T5EncoderModel
    load_vae: Callable[[], Any]  # AutoencoderKLCogVideoX
    vae_factor: int  # pixels per latent, along one side
    frame_factor: int  # frames per latent frame, after the first
    scaling_factor: float

    def latent_shape(self, request: Request) -> tuple[int, int, int, int, int]:
        """[1, F, C, h, w]. Raises InputError for a size or a number of frames it cannot draw."""
        config, factor = self.network.config, self.vae_factor * self.network.config.patch_size
        for name, pixels in (("height", request.height), ("width", request.width)):
            if pixels % factor:
                near = max(factor, round(pixels / factor) * factor)
                raise InputError(
                    f"{name} is {pixels}: this model needs a multiple of {factor}, such as {near}"
                )
        h, w = request.height // self.vae_factor, request.width // self.vae_factor
        if not config.use_rotary_positional_embeddings:
            self._check_positions(h, w, request)
        if request.frames is None:
            raise InputError("frames: this model draws clips, say how many")
        stride = 2 * self.frame_factor  # its VAE decodes latent frames in pairs, after the first
        most = (config.sample_frames - 1) // stride * stride + 1
        if (request.frames - 1) % stride or request.frames > most:
            raise InputError(
                f"frames is {request.frames}: this model draws 1, {1 + stride}, {1 + 2 * stride}, "
                f"... up to {most}"
            )
        return (1, (request.frames - 1) // self.frame_factor + 1, config.in_channels, h, w)

    def _check_positions(self, h: int, w: int, request: Request) -> None:
        """A model with learned positions draws one size only."""
        config = self.network.config
        if config.use_learned_positional_embeddings and (h, w) != (
            config.sample_height,
            config.sample_width,
        ):
            raise InputError(
                f"size is {request.width}x{request.height}: this model draws only "
                f"{config.sample_width * self.vae_factor}x{config.sample_height * self.vae_factor}"
            )

    @torch.no_grad()
    def encode(self, request: Request) -> Conditioning:
        """`prompt` and `negative`, each [1, L, D]."""
        return {
            "prompt": self._embed(request.prompt),
            "negative": self._embed(request.negative_prompt),
        }

    def _embed(self, text: str) -> Tensor:
        tokens = self.load_tokenizer()(
            text,
            padding="max_length",
            max_length=self.network.config.max_text_seq_length,
            truncation=True,
            return_tensors="pt",
        )
        embeds: Tensor = self.load_text_encoder()(tokens.input_ids.to(self.device))[0]
        return embeds.to(self.dtype)

    def check_conditioning(self, conditioning: Conditioning) -> None:
        config = self.network.config
        wanted = (1, config.max_text_seq_length, config.text_embed_dim)
        for name in ("prompt", "negative"):
            shape = tuple(conditioning[name].shape) if name in conditioning else None
            if shape != wanted:
                raise PayloadError(f"the encoded {name} has shape {shape}, this model's {wanted}")

    def guidance_at(self, trajectory: Trajectory) -> float:
        """The request's, or with dynamic guidance 1 + g (1 - cos(pi ((T - t) / T)^5)) / 2.

        As diffusers computes it, t is the timestep and T the number of steps.
        """
        t = trajectory
        if not t.request.dynamic_guidance:
            return t.guidance
        share = (t.plan.steps - float(t.timestep)) / t.plan.steps
        return 1 + t.guidance * (1 - cos(pi * share**5)) / 2

    def call(self, latents: Tensor, timesteps: Tensor, rows: Sequence[Row]) -> Tensor:
        noise: Tensor = self.network(
            hidden_states=latents,
            encoder_hidden_states=torch.cat([r.embedding() for r in rows]),
            timestep=timesteps,
            image_rotary_emb=self._rotary(latents),
            return_dict=False,
        )[0]
        return noise.float()

    def _rotary(self, latents: Tensor) -> tuple[Tensor, Tensor] | None:
        """Rotary position embeddings (cosines, sines) of a model that has them."""
        config = self.network.config
        if not config.use_rotary_positional_embeddings:
            return None
        from diffusers.models.embeddings import get_3d_rotary_pos_embed

        p = config.patch_size
        frames, (h, w) = latents.shape[1], (n // p for n in latents.shape[-2:])
        base_h, base_w = config.sample_height // p, config.sample_width // p
        cosines, sines = get_3d_rotary_pos_embed(
            embed_dim=config.attention_head_dim,
            crops_coords=_centred(h, w, base_h, base_w),
            grid_size=(h, w),
            temporal_size=frames,
            device=latents.device,
        )
        return cosines, sines

    def step(self, trajectory: Trajectory, noise: Tensor) -> None:
        super().step(trajectory, noise)
        trajectory.latents = trajectory.latents.to(self.dtype)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Clips [B, F, 3, H, W] in [0, 1], float32. Raises NonFiniteError."""
        vae = self.load_vae()
        scaled = latents.to(self.device, next(vae.parameters()).dtype) / self.scaling_factor
        clips: Tensor = vae.decode(scaled.transpose(1, 2), return_dict=False)[0].float()
        if not clips.isfinite().all():
            raise NonFiniteError("the VAE produced NaN or infinity: load the pair in bfloat16")
        return (clips.transpose(1, 2) / 2 + 0.5).clamp(0, 1)


def _centred(h: int, w: int, base_h: int, base_w: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where an h x w grid of patches lies when it is fitted into the grid of the training size.

    (top, left), (bottom, right): the whole of the longer side, the middle of the other.
    """
    if h / w > base_h / base_w:
        height, width = base_h, round(base_h / h * w)
    else:
        height, width = round(base_w / w * h), base_w
    top, left = round((base_h - height) / 2), round((base_w - width) / 2)
    return (top, left), (top + height, left + width)


def load(loader: Loader, needs: frozenset[str]) -> CogVideoX:
    """Load one side; parts not in `needs` ("text", "vae") are loaded when first used.

    An edge that gets its embeddings from the cloud so never loads T5.
    Raises PairError naming the part that is missing, or a model this family cannot run.
    """
    with quiet_transformers():
        from diffusers import CogVideoXTransformer3DModel
        from transformers import T5EncoderModel, T5Tokenizer

    network = loader.network(CogVideoXTransformer3DModel, "transformer")
    if getattr(network.config, "patch_size_t", None) is not None:
        raise PairError(f"{loader.name} is a CogVideoX 1.5 model: this family runs 1.0 (2B, 5B)")
    vae = loader.config("vae")
    text = "text" in needs
    tokenizer = loader.lazy_tokenizer(T5Tokenizer, now=text)
    text_encoder = loader.lazy(T5EncoderModel, "text_encoder", now=text)
    if text:
        check_vocabulary(tokenizer(), text_encoder(), loader.name)
    return CogVideoX(
        network,
        loader.scheduler_config(),
        loader.device,
        loader.dtype,
        tokenizer,
        text_encoder,
        loader.vae(now="vae" in needs),
        2 ** (len(vae["block_out_channels"]) - 1),
        int(vae.get("temporal_compression_ratio", 4)),
        float(vae.get("scaling_factor", 1.15258426)),  # diffusers' own default
    )
