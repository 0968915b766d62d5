"""The loop, driven by a family that is all arithmetic, so that every number can be foretold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from conftest import a_request
from torch import Tensor

from ecdiff.errors import InputError
from ecdiff.extrapolate import History
from ecdiff.plan import Phase, Plan, split
from ecdiff.request import Request
from ecdiff.trajectory import (
    Conditioning,
    Snapshot,
    Trajectory,
    advance,
    denoise,
    run_stretch,
    snapshot,
)


@dataclass
class Arithmetic:
    """Noise is `noise(step)` where evaluated; a step subtracts it from the latents."""

    noise: Callable[[int], float]
    batches: list[list[int]] = field(default_factory=list)  # the steps of each predict call
    used: list[float] = field(default_factory=list)  # the noise of each step

    def encode(self, request: Request) -> Conditioning:
        return {}

    def begin(
        self,
        request: Request,
        plan: Plan,
        seed: int,
        conditioning: Conditioning,
        state: Snapshot | None = None,
    ) -> Trajectory:
        clock = SimpleNamespace(timesteps=torch.arange(plan.steps, 0, -1))
        latents = torch.full((1, 4, 4, 4), float(seed)) if state is None else state.latents
        step = plan.start if state is None else state.step
        history = History() if state is None else state.history
        return Trajectory(request, plan, seed, conditioning, clock, latents, step, history)

    def predict(self, trajectories: Sequence[Trajectory]) -> Tensor:
        self.batches.append([t.step for t in trajectories])
        return torch.cat([torch.full_like(t.latents, self.noise(t.step)) for t in trajectories])

    def step(self, trajectory: Trajectory, noise: Tensor) -> None:
        self.used.append(noise.unique().item())
        trajectory.latents = trajectory.latents - noise

    def decode(self, latents: Tensor) -> Tensor:
        return latents

    def scheduler_state(self, trajectory: Trajectory) -> Mapping[str, Tensor]:
        return {}

    def estimate(self, trajectory: Trajectory, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Epsilon is twice the network's output."""
        return trajectory.latents - noise, 2 * noise

    def output_for(self, trajectory: Trajectory, eps: Tensor) -> Tensor:
        return eps / 2


def start(family: Arithmetic, plan: Plan, seed: int = 7) -> Trajectory:
    return family.begin(a_request(), plan, seed, {})


def test_the_loop_follows_algorithm_1_by_hand() -> None:
    """The example of test_extrapolate, through the loop: p = 3, k = 2, alpha = 0.5, T = 12."""
    evaluated = {0: 10.0, 1: 8.0, 2: 7.0, 5: 2.0, 8: 1.0, 11: 9.0}
    family = Arithmetic(evaluated.__getitem__)
    trajectory = start(family, split(12, 12, 3, 2, 0.5))
    events = list(denoise(family, [trajectory], 12))
    assert family.used == [10, 8, 7, 6, 5, 2, 0.5, -1, 1, 2, 3, 9]
    assert [e.evaluated for e in events] == [i in evaluated for i in range(12)]
    assert [e.step for e in events] == list(range(12))
    assert [e.timestep for e in events] == list(range(12, 0, -1))
    assert trajectory.latents.unique().item() == 7 - sum(family.used)
    assert trajectory.finished


def test_extrapolating_epsilon_is_the_same_where_it_is_proportional() -> None:
    evaluated = {0: 10.0, 1: 8.0, 2: 7.0, 5: 2.0, 8: 1.0, 11: 9.0}
    family = Arithmetic(evaluated.__getitem__)
    plan = Plan(12, (Phase("cloud", 12, 3, 2, 0.5, space="epsilon"),))
    trajectory = start(family, plan)
    for _ in denoise(family, [trajectory], 3):
        pass
    assert trajectory.history.noise is not None
    assert trajectory.history.noise.unique().item() == 2 * 7  # epsilon is what is remembered
    list(denoise(family, [trajectory], 12))
    assert family.used == [10, 8, 7, 6, 5, 2, 0.5, -1, 1, 2, 3, 9]


def test_the_step_before_a_handoff_leaves_its_estimate() -> None:
    family = Arithmetic(lambda step: float(step))
    trajectory = start(family, split(10, 6))
    for event in denoise(family, [trajectory], 6):
        assert (trajectory.parting is None) == (event.step < 5)
    x0, eps = trajectory.parting or ()
    assert (x0.unique().item(), eps.unique().item()) == (7 - sum(range(6)), 10)


def test_a_phase_begins_with_no_history() -> None:
    """Two extrapolating phases on one site: the second waits for its own gradient."""
    family = Arithmetic(lambda step: float(step * step))
    plan = Plan(10, (Phase("edge", 5, 2, 3), Phase("edge", 5, 2, 3)))
    trajectory = start(family, plan)
    list(denoise(family, [trajectory], 10))
    assert family.used == [0, 1, 2, 3, 4, 25, 36, 47, 58, 69]


def test_the_history_holds_what_the_rule_needs_and_no_more() -> None:
    family = Arithmetic(lambda step: float(step))
    plan = Plan(30, (Phase("cloud", 10), Phase("cloud", 10, 7, 2), Phase("edge", 10, 2, 1)))
    trajectory = start(family, plan)
    for event in denoise(family, [trajectory], 30):
        phase, i = plan.locate(event.step)
        held = [tensor for tensor in trajectory.history if tensor is not None]
        assert len(trajectory.history) == 2
        assert all(tensor.shape == trajectory.latents.shape for tensor in held)
        if phase.skip == 0 or i + 1 == phase.steps:
            assert held == []
        elif i + 1 < phase.warmup:
            assert len(held) == 1


def test_one_network_call_serves_all_members_that_need_one() -> None:
    family = Arithmetic(lambda step: 1.0)
    ahead, behind = start(family, split(12, 12, 2, 2)), start(family, split(9, 9))
    for _ in range(3):
        advance(family, [ahead])
    family.batches.clear()
    advance(family, [ahead, behind])  # step 3 of the first is extrapolated
    advance(family, [ahead, behind])
    assert family.batches == [[0], [4, 1]]
    family.batches.clear()
    advance(family, [ahead])
    assert family.batches == []


def test_the_latents_depend_on_no_other_member() -> None:
    family = Arithmetic(lambda step: float(step % 5))
    together = [start(family, split(12, 12, 2, 2, 0.3), seed) for seed in (1, 2)]
    for _ in range(12):
        advance(family, together)
    for trajectory in together:
        alone = start(family, trajectory.plan, trajectory.seed)
        list(denoise(family, [alone], 12))
        assert torch.equal(alone.latents, trajectory.latents)


def test_closing_the_loop_cancels_it() -> None:
    family = Arithmetic(lambda step: 1.0)
    work = run_stretch(family, a_request(), split(50, 50), {})
    for _ in range(3):
        next(work)
    work.close()
    assert len(family.batches) == 3
    with pytest.raises(StopIteration):
        next(work)


def test_a_stretch_ends_where_the_site_changes() -> None:
    family = Arithmetic(lambda step: 1.0)
    plan = Plan(9, (Phase("cloud", 2), Phase("cloud", 3, 2, 1), Phase("edge", 4)))
    request = a_request(seeds=(1, 2))
    first = run_stretch(family, request, plan, {})
    done = drain(first)
    assert [t.step for t in done] == [5, 5]
    states = [snapshot(family, t) for t in done]
    assert [t.step for t in drain(run_stretch(family, request, plan, {}, states))] == [9, 9]
    assert [t.latents.unique().item() for t in done] == [1 - 5, 2 - 5]


def test_a_finished_trajectory_has_nothing_left_to_run() -> None:
    family = Arithmetic(lambda step: 1.0)
    done = drain(run_stretch(family, a_request(), split(3, 3), {}))
    again = drain(run_stretch(family, a_request(), split(3, 3), {}, [snapshot(family, done[0])]))
    assert torch.equal(again[0].latents, done[0].latents)
    assert snapshot(family, done[0]).timestep is None


def test_a_phase_may_override_the_guidance() -> None:
    plan = Plan(4, (Phase("cloud", 2, guidance=1.5), Phase("edge", 2)))
    trajectory = start(Arithmetic(lambda step: 0.0), plan)
    assert trajectory.guidance == 1.5
    trajectory.step = 2
    assert trajectory.guidance == trajectory.request.guidance


def test_denoise_takes_members_at_one_step_of_one_plan() -> None:
    family = Arithmetic(lambda step: 1.0)
    with pytest.raises(InputError):
        next(denoise(family, [start(family, split(5, 5)), start(family, split(6, 6))], 5))
    with pytest.raises(InputError):
        next(denoise(family, [], 5))


def drain(work: object) -> list[Trajectory]:
    while True:
        try:
            next(work)  # type: ignore[call-overload]
        except StopIteration as end:
            return list(end.value)
