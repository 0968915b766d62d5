"""The state of one generation, and the loop that moves it on.

The same loop runs in the cloud, at the edge and in a script. It knows a model only through
`Family`, and a scheduler only as something the family copies and steps. Latents are [1, C, h, w]
for a picture and [1, F, C, h, w] for a clip of F latent frames; nothing here looks inside.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from ecdiff.errors import InputError
from ecdiff.extrapolate import RULES, History
from ecdiff.plan import Phase, Plan, Site
from ecdiff.request import Request

Conditioning = Mapping[str, Tensor]


@dataclass
class Trajectory:
    """One picture or clip on its way. Owns everything that changes; two never share any of it."""

    request: Request  # set once
    plan: Plan  # set once
    seed: int  # set once: of the first latents
    conditioning: Conditioning  # set once, shared, never written to
    scheduler: Any  # its own copy; its cursor and multistep history change every step
    latents: Tensor  # [1, ...], changes every step
    step: int  # the next step to do, changes every step
    history: History = field(default_factory=History)  # changes every step, emptied at a phase
    generator: torch.Generator | None = None  # its own, on the CPU, where the scheduler draws noise
    draws: int = 0  # tensors drawn from it after the first latents, changes every step
    parting: tuple[Tensor, Tensor] | None = None  # (x0, epsilon) of the step before a handoff

    @property
    def finished(self) -> bool:
        return self.step >= self.plan.steps

    @property
    def timestep(self) -> Tensor:
        timestep: Tensor = self.scheduler.timesteps[self.step]
        return timestep

    @property
    def guidance(self) -> float:
        phase, _ = self.plan.locate(self.step)
        return self.request.guidance if phase.guidance is None else phase.guidance


@dataclass(frozen=True)
class Snapshot:
    """A trajectory's state without its conditioning and scheduler object.

    As a checkpoint it is the whole state at `step`; as a handoff its `history` is empty.
    """

    request: Request
    plan: Plan
    seed: int
    step: int
    timestep: float | None  # of `step`, None at the end: both sides must agree on it
    latents: Tensor  # [1, ...]
    history: History = field(default_factory=History)
    scheduler: Mapping[str, Tensor] = field(default_factory=dict)  # multistep history, by name
    draws: int = 0  # tensors that a stochastic scheduler has drawn after the first latents


class Family(Protocol):
    """The five verbs of a model family, and what its schedulers must tell. Holds no state."""

    def encode(self, request: Request) -> Conditioning:
        """Text to tensors, one row each."""
        ...

    def begin(
        self,
        request: Request,
        plan: Plan,
        seed: int,
        conditioning: Conditioning,
        state: Snapshot | None = None,
    ) -> Trajectory:
        """Draw the first latents from `seed`, or go on from `state`."""
        ...

    def predict(self, trajectories: Sequence[Trajectory]) -> Tensor:
        """The network's guided output [B, ...] in one call; members may stand at any timestep.

        It is epsilon or v, as the model predicts; this project calls it the noise.
        """
        ...

    def step(self, trajectory: Trajectory, noise: Tensor) -> None:
        """One scheduler update of `latents` with `noise` [1, ...], in place."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, ...] to pictures [B, 3, H, W] or clips [B, F, 3, H, W] in [0, 1]."""
        ...

    def scheduler_state(self, trajectory: Trajectory) -> dict[str, Tensor]:
        """The scheduler's multistep history, by name; empty for single-step schedulers."""
        ...

    def estimate(self, trajectory: Trajectory, noise: Tensor) -> tuple[Tensor, Tensor]:
        """(x0, epsilon) that the network's output at this step stands for."""
        ...

    def output_for(self, trajectory: Trajectory, eps: Tensor) -> Tensor:
        """The network's output that stands for `eps` at this step."""
        ...


@dataclass(frozen=True)
class StepEvent:
    """One finished step. Steps count from 0; where not `evaluated`, noise was extrapolated."""

    step: int
    steps: int
    timestep: float
    site: Site
    evaluated: bool


def advance(family: Family, trajectories: Sequence[Trajectory]) -> list[StepEvent]:
    """Do one step of each trajectory: one network call for all that need one.

    The members may stand at different steps of different plans.
    """
    places = [t.plan.locate(t.step) for t in trajectories]
    due = [t for t, (phase, i) in zip(trajectories, places, strict=True) if phase.evaluates(i)]
    evaluated = iter(torch.split(family.predict(due), 1)) if due else iter(())
    events = []
    for t, (phase, i) in zip(trajectories, places, strict=True):
        is_due = phase.evaluates(i)
        if is_due:
            noise = _observe(family, t, next(evaluated), i, phase)
        else:
            noise = _extrapolate(family, t, phase)
        if i + 1 == phase.steps and t.step + 1 < t.plan.steps:
            t.parting = family.estimate(t, noise)
        family.step(t, noise)
        events.append(StepEvent(t.step, t.plan.steps, float(t.timestep), phase.site, is_due))
        t.step += 1
        if i + 1 == phase.steps:
            t.history = History()  # the next phase begins with none
    return events


def _observe(family: Family, t: Trajectory, noise: Tensor, i: int, phase: Phase) -> Tensor:
    if phase.skip:
        seen = noise if phase.space == "output" else family.estimate(t, noise)[1]
        t.history = RULES[phase.rule].observe(t.history, seen, i, phase)
    return noise


def _extrapolate(family: Family, t: Trajectory, phase: Phase) -> Tensor:
    noise, t.history = RULES[phase.rule].extrapolate(t.history)
    return noise if phase.space == "output" else family.output_for(t, noise)


def denoise(family: Family, trajectories: Sequence[Trajectory], until: int) -> Iterator[StepEvent]:
    """Advance trajectories of one plan in step with each other up to step `until`.

    Yields one event a step. To cancel, close the generator: nothing runs after the step at hand.
    """
    if len({(t.plan, t.step) for t in trajectories}) != 1:
        raise InputError("denoise takes one or more trajectories at the same step of one plan")
    while trajectories[0].step < until:
        yield advance(family, trajectories)[0]


def run_stretch(
    family: Family,
    request: Request,
    plan: Plan,
    conditioning: Conditioning,
    states: Sequence[Snapshot] | None = None,
) -> Generator[StepEvent, None, list[Trajectory]]:
    """Begin, or go on from `states`, and denoise until the plan changes site or ends.

    Yields one event a step and returns the trajectories, one a seed.
    """
    if states is None:
        trajectories = [family.begin(request, plan, seed, conditioning) for seed in request.seeds]
    else:
        trajectories = [
            family.begin(request, plan, state.seed, conditioning, state) for state in states
        ]
    if not trajectories[0].finished:
        _, end = plan.stretch_at(trajectories[0].step)
        yield from denoise(family, trajectories, end)
    return trajectories


def can_resume(state: Snapshot) -> bool:
    """Whether `state` holds the noise history that its next steps need."""
    if state.step == state.plan.steps:
        return True
    phase, i = state.plan.locate(state.step)
    return phase.skip == 0 or RULES[phase.rule].holds_enough(state.history, i, phase)


def snapshot(family: Family, trajectory: Trajectory) -> Snapshot:
    """The whole state, for the same model to go on from. Shares tensors with the trajectory."""
    return Snapshot(
        trajectory.request,
        trajectory.plan,
        trajectory.seed,
        trajectory.step,
        None if trajectory.finished else float(trajectory.timestep),
        trajectory.latents,
        trajectory.history,
        family.scheduler_state(trajectory),
        trajectory.draws,
    )
