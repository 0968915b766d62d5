"""From one model's latent scale and noise schedule to another's, at a handoff.

CogVideoX 5B and 2B share a VAE but neither its scaling factor (c) nor the shift of their
schedules, so the same clip has another signal and another noise level at the same timestep.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ecdiff.errors import InputError, PayloadError
from ecdiff.families import schedulers
from ecdiff.request import Request
from ecdiff.trajectory import Snapshot, Trajectory

KINDS = {"cogvideox": schedulers.COGVIDEOX_CLASSES}


@dataclass(frozen=True)
class Conversion:
    """To the model whose scheduler is configured by `config`; `ratio` is its c over ours.

    Modes (`Request.handoff`):

    - `renoise`: sqrt(abar) ratio x0 + sqrt(1 - abar) eps, with x0 and eps of the last step and the
      other model's abar at the next timestep. Exact where the last step's estimate is.
    - `rescale`: x sqrt(1 - abar) / sqrt(1 - abar_own): the noise level fits, the signal does not.
    - `paper`: x as it is.
    """

    family: str
    config: Mapping[str, Any]
    ratio: float

    def __call__(self, t: Trajectory, state: Snapshot) -> Snapshot:
        """The snapshot of `t`, which stands before the other model's first step, converted."""
        latents = self.latents(t.request, t, state.latents)
        history = {name: (self.ratio * x0).to(x0.dtype) for name, x0 in state.scheduler.items()}
        return replace(state, latents=latents.to(state.latents.dtype), scheduler=history)

    def latents(self, request: Request, t: Trajectory, x: Tensor) -> Tensor:
        """[1, ...] for the other model's step `t.step`."""
        if t.finished:
            return x * self.ratio
        if request.handoff == "paper":
            return x
        if request.scheduler == "euler":
            raise InputError("scheduler 'euler' cannot cross to a model of another scale: use ddim")
        kinds = KINDS.get(self.family, schedulers.IMAGE_CLASSES)
        other = schedulers.make_scheduler(kinds[request.scheduler], self.config, t.plan.steps)
        abar = schedulers.alpha_bar(other, t.step).to(x.device)
        if request.handoff == "rescale":
            own = schedulers.alpha_bar(t.scheduler, t.step).to(x.device)
            return x * ((1 - abar) / (1 - own)).sqrt()
        if t.parting is None:
            raise PayloadError("renoise needs the last step's x0: no step was done before it")
        x0, eps = t.parting
        return abar.sqrt() * self.ratio * x0 + (1 - abar).sqrt() * eps
