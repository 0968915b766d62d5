"""What the families share: first latents, one guided network call for many, one scheduler step."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ecdiff.errors import InputError, PairError, PayloadError
from ecdiff.extrapolate import History
from ecdiff.families import schedulers
from ecdiff.plan import Plan
from ecdiff.request import Request
from ecdiff.trajectory import Conditioning, Snapshot, Trajectory


@dataclass(frozen=True)
class Row:
    """One row of a network call: a trajectory with its prompt, or with its negative prompt."""

    trajectory: Trajectory
    conditioned: bool

    def embedding(self, name: str = "") -> Tensor:
        """Of the conditioning, `prompt` or `negative` with `name` after it."""
        return self.trajectory.conditioning[("prompt" if self.conditioned else "negative") + name]


@dataclass(frozen=True)
class LatentFamily:
    """A loaded model of classifier-free guidance in a latent space.

    Nothing in it changes while it generates. A family adds `latent_shape`, `encode`, `call` and
    `decode`; `load(loader, needs)` in its file makes one.
    """

    schedulers: ClassVar[Mapping[str, Any]] = schedulers.IMAGE_CLASSES  # those it can use

    network: Any
    scheduler_config: dict[str, Any]
    device: torch.device
    dtype: torch.dtype
    _ready: dict[tuple[str, int], Any] = field(default_factory=dict, repr=False, kw_only=True)

    def latent_shape(self, request: Request) -> tuple[int, ...]:
        """[1, ...] of the request's latents. Raises InputError for a size it cannot draw."""
        raise NotImplementedError

    def check_conditioning(self, conditioning: Conditioning) -> None:
        """Raises PayloadError for an encoded prompt, perhaps from the wire, of another model."""

    def call(self, latents: Tensor, timesteps: Tensor, rows: Sequence[Row]) -> Tensor:
        """The network on latents [R, ...] at timesteps [R], a row each."""
        raise NotImplementedError

    def begin(
        self,
        request: Request,
        plan: Plan,
        seed: int,
        conditioning: Conditioning,
        state: Snapshot | None = None,
    ) -> Trajectory:
        """Draw the first latents on the CPU as diffusers does, or go on from `state`.

        Raises InputError for a size or scheduler that is not this model's; PayloadError or
        PairError for a state that is not.
        """
        shape = self.latent_shape(request)
        if conditioning:
            self.check_conditioning(conditioning)
        scheduler = self.new_scheduler(request, plan.steps)
        generator = torch.Generator().manual_seed(seed)
        if state is None:
            schedulers.place_at(scheduler, plan.start, {}, self.device)
            noise = torch.randn(shape, generator=generator, dtype=self.dtype).to(self.device)
            latents = noise * getattr(scheduler, "init_noise_sigma", 1.0)
            return Trajectory(
                request, plan, seed, conditioning, scheduler, latents, plan.start,
                generator=generator,
            )  # fmt: skip
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
        schedulers.place_at(scheduler, state.step, state.scheduler, self.device)
        if isinstance(scheduler, schedulers.STOCHASTIC):
            for _ in range(1 + state.draws):  # the first latents, then every step's noise
                torch.randn(shape, generator=generator, dtype=self.dtype)
        return Trajectory(
            request,
            plan,
            seed,
            conditioning,
            scheduler,
            state.latents.to(self.device),
            state.step,
            History(*(t if t is None else t.to(self.device) for t in state.history)),
            generator,
            state.draws,
        )

    def new_scheduler(self, request: Request, steps: int) -> Any:
        """A copy for one trajectory: schedulers keep a hidden cursor.

        Raises InputError for one this model cannot use.
        """
        name = request.scheduler
        if name not in self.schedulers:
            raise InputError(
                f"scheduler {name!r} is not for this model: use {' or '.join(self.schedulers)}"
            )
        key = (name, steps)
        if key not in self._ready:
            kind = self.schedulers[name]
            self._ready[key] = schedulers.make_scheduler(kind, self.scheduler_config, steps)
        return copy.deepcopy(self._ready[key])

    def guides(self, trajectory: Trajectory) -> bool:
        """Whether this step needs a second row, without the prompt."""
        return trajectory.guidance > 1

    @torch.no_grad()
    def predict(self, trajectories: Sequence[Trajectory]) -> Tensor:
        """Guided output [B, ...]: eps_u + g (eps_c - eps_u), or eps_c alone where g <= 1.

        One network call, whose rows are the unconditional ones, then the conditional ones.
        Raises InputError when the members' sizes differ.
        """
        if len({t.latents.shape for t in trajectories}) != 1:
            raise InputError("one network call takes trajectories of one size")
        guided = [t for t in trajectories if self.guides(t)]
        rows = [Row(t, False) for t in guided] + [Row(t, True) for t in trajectories]
        scaled = {id(t): schedulers.network_input(t).to(self.dtype) for t in trajectories}
        inputs = torch.cat([scaled[id(r.trajectory)] for r in rows])
        timesteps = torch.stack([r.trajectory.timestep.float() for r in rows])
        with torch.inference_mode():  # 2 % faster than no_grad on a small network
            out = self.call(inputs, timesteps.to(self.device), rows)
        unconditional = iter(torch.split(out[: len(guided)], 1))
        noises = []
        for t, eps in zip(trajectories, torch.split(out[len(guided) :], 1), strict=True):
            if self.guides(t):
                eps_u = next(unconditional)
                eps = eps_u + self.guidance_at(t) * (eps - eps_u)
            noises.append(eps)
        return torch.cat(noises)

    def guidance_at(self, trajectory: Trajectory) -> float:
        """The guidance scale of this step."""
        return trajectory.guidance

    def step(self, trajectory: Trajectory, noise: Tensor) -> None:
        schedulers.take_step(trajectory, noise)

    def scheduler_state(self, trajectory: Trajectory) -> dict[str, Tensor]:
        return schedulers.state_of(trajectory.scheduler)

    def estimate(self, trajectory: Trajectory, noise: Tensor) -> tuple[Tensor, Tensor]:
        return schedulers.estimate(trajectory, noise)

    def output_for(self, trajectory: Trajectory, eps: Tensor) -> Tensor:
        return schedulers.output_for(trajectory, eps)
