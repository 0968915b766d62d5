"""Stable Diffusion 1.x and its distilled relatives (BK-SDM): U-Net, CLIP text encoder, VAE."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor
from transformers.utils import logging

from ecdiff.errors import InputError, NonFiniteError, PairError, PayloadError
from ecdiff.extrapolate import History
from ecdiff.families.schedulers import make_scheduler, place_at, state_of
from ecdiff.plan import Plan
from ecdiff.request import Request
from ecdiff.trajectory import Conditioning, Snapshot, Trajectory


@dataclass(frozen=True)
class StableDiffusion:
    """A loaded model. Nothing in it changes while it generates."""

    unet: Any  # UNet2DConditionModel
    text_encoder: Any  # CLIPTextModel
    tokenizer: Any  # CLIPTokenizer
    vae: Any  # AutoencoderKL or AutoencoderTiny
    scheduler_config: dict[str, Any]
    _schedulers: dict[tuple[str, int], Any] = field(default_factory=dict, repr=False)

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.unet.parameters()).device  # unet.device looks at them all
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = next(self.unet.parameters()).dtype
        return dtype

    @property
    def vae_factor(self) -> int:
        """Pixels per latent, along one side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def latent_channels(self) -> int:
        return int(self.unet.config.in_channels)

    def latent_shape(self, request: Request) -> tuple[int, int, int, int]:
        """[1, C, h, w]. Raises InputError for a size the VAE or the U-Net cannot halve."""
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
        tokens = self.tokenizer(
            text,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        mask = None
        if getattr(self.text_encoder.config, "use_attention_mask", False):
            mask = tokens.attention_mask.to(self.device)
        embeds: Tensor = self.text_encoder(tokens.input_ids.to(self.device), mask)[0]
        return embeds.to(self.dtype)

    def begin(
        self,
        request: Request,
        plan: Plan,
        seed: int,
        conditioning: Conditioning,
        state: Snapshot | None = None,
    ) -> Trajectory:
        """Draw the first latents on the CPU as diffusers does, or go on from `state`.

        Raises InputError for a size this model cannot draw; PayloadError or PairError for a
        state that is not this model's.
        """
        shape = self.latent_shape(request)
        scheduler = self._scheduler(request.scheduler, plan.steps)
        if state is None:
            place_at(scheduler, plan.start, {}, self.device)
            generator = torch.Generator().manual_seed(seed)
            noise = torch.randn(shape, generator=generator, dtype=self.dtype).to(self.device)
            latents = noise * scheduler.init_noise_sigma
            return Trajectory(request, plan, seed, conditioning, scheduler, latents, plan.start)
        if tuple(state.latents.shape) != shape:
            raise PayloadError(
                f"latents of shape {tuple(state.latents.shape)}: a {request.width}x"
                f"{request.height} picture of this model has {shape}"
            )
        own = float(scheduler.timesteps[state.step]) if state.step < plan.steps else None
        if own != state.timestep:
            raise PairError(
                f"step {state.step} is timestep {state.timestep} there and {own} here: "
                "the two sides' schedulers differ"
            )
        place_at(scheduler, state.step, state.scheduler, self.device)
        latents = state.latents.to(self.device)
        history = History(*(t if t is None else t.to(self.device) for t in state.history))
        return Trajectory(
            request, plan, seed, conditioning, scheduler, latents, state.step, history
        )

    def _scheduler(self, name: str, steps: int) -> Any:
        """A copy for one trajectory: schedulers keep a hidden cursor."""
        key = (name, steps)
        if key not in self._schedulers:
            self._schedulers[key] = make_scheduler(name, self.scheduler_config, steps)
        return copy.deepcopy(self._schedulers[key])

    @torch.no_grad()
    def predict(self, trajectories: Sequence[Trajectory]) -> Tensor:
        """Guided noise [B, C, h, w]: eps_u + g (eps_c - eps_u), or eps_c alone where g <= 1.

        One network call, whose rows are the unconditional ones, then the conditional ones.
        Raises InputError when the members' sizes differ.
        """
        if len({t.latents.shape for t in trajectories}) != 1:
            raise InputError("one network call takes trajectories of one size")
        guided = [t for t in trajectories if t.guidance > 1]
        rows = [*guided, *trajectories]
        texts = [t.conditioning["negative"] for t in guided]
        texts += [t.conditioning["prompt"] for t in trajectories]
        inputs = [t.scheduler.scale_model_input(t.latents, t.timestep) for t in rows]
        noise: Tensor = self.unet(
            torch.cat(inputs).to(self.dtype),
            torch.stack([t.timestep.float() for t in rows]).to(self.device),
            encoder_hidden_states=torch.cat(texts),
            return_dict=False,
        )[0]
        unconditional = iter(torch.split(noise[: len(guided)], 1))
        out = []
        for t, eps in zip(trajectories, torch.split(noise[len(guided) :], 1), strict=True):
            if t.guidance > 1:
                eps_u = next(unconditional)
                eps = eps_u + t.guidance * (eps - eps_u)
            out.append(eps)
        return torch.cat(out)

    def step(self, trajectory: Trajectory, noise: Tensor) -> None:
        t = trajectory
        t.latents = t.scheduler.step(noise, t.timestep, t.latents, return_dict=False)[0]

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in [0, 1], float32.

        Raises NonFiniteError when the VAE overflows (float16 on some models).
        """
        weight = next(self.vae.parameters())
        scaled = latents.to(weight.device, weight.dtype) / self.vae.config.scaling_factor
        pictures: Tensor = self.vae.decode(scaled, return_dict=False)[0].float()
        if not pictures.isfinite().all():
            raise NonFiniteError(
                f"the VAE produced NaN or infinity in {weight.dtype}: load the pair in float32"
            )
        return (pictures / 2 + 0.5).clamp(0, 1)

    def scheduler_state(self, trajectory: Trajectory) -> dict[str, Tensor]:
        return state_of(trajectory.scheduler)


def load(model: str, unet: str | None, device: torch.device, dtype: torch.dtype) -> StableDiffusion:
    """Load from a `StableDiffusionPipeline` folder or hub id.

    `unet` names a folder with a `unet/` to take in place of the model's own.
    Raises PairError naming the part that is missing.
    """
    with quiet_transformers():
        from diffusers import AutoModel, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

        def part(kind: Any, source: str, name: str) -> Any:
            try:
                loaded = kind.from_pretrained(source, subfolder=name, torch_dtype=dtype)
            except (OSError, ValueError, KeyError) as error:
                reason = str(error).strip().splitlines()[0]
                raise PairError(f"cannot load {name} of {source}: {reason}") from error
            return loaded.to(device).eval().requires_grad_(False)

        try:
            tokenizer = CLIPTokenizer.from_pretrained(model, subfolder="tokenizer")
            scheduler_config = DDIMScheduler.load_config(model, subfolder="scheduler")
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise PairError(f"cannot load {model}: {reason}") from error
        text_encoder = part(CLIPTextModel, model, "text_encoder")
        if len(tokenizer) != text_encoder.config.vocab_size:  # so it is when the files are missing
            raise PairError(
                f"cannot load tokenizer of {model}: it knows {len(tokenizer)} tokens, "
                f"the text encoder {text_encoder.config.vocab_size}"
            )
        return StableDiffusion(
            part(UNet2DConditionModel, unet or model, "unet"),
            text_encoder,
            tokenizer,
            part(AutoModel, model, "vae"),
            scheduler_config,
        )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide transformers' loading bars, and its notes about a torchvision nothing here needs."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
