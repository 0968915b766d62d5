"""Pictures of many plans on the same requests, doing once every step that two of them share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ecdiff.measure import Families, advance_to, hand_over
from ecdiff.plan import Phase, Plan
from ecdiff.request import Request
from ecdiff.trajectory import Snapshot

Key = tuple[object, ...]


class Drawer:
    """Draws `requests`, at most one network batch of them. Keeps their states where `plans`
    change phase, so that plans that begin alike share those steps bit for bit."""

    def __init__(
        self, families: Families, requests: Sequence[Request], plans: Iterable[Plan]
    ) -> None:
        self._families, self._requests = families, requests
        self._known: dict[Key, list[Snapshot]] = {}
        self._stops: set[int] = set()
        for plan in plans:
            for begin, phase in _placed(plan):
                self._stops |= {begin + phase.steps, begin + phase.warmup}

    def pictures(self, plan: Plan) -> Tensor:
        """[B, 3, H, W] in [0, 1]."""
        states = self._at(plan, len(plan.phases), plan.steps)
        family = self._families[plan.phases[-1].site]
        return family.decode(torch.cat([state.latents for state in states]))

    def _at(self, plan: Plan, phases: int, step: int) -> list[Snapshot]:
        """The states at `step`, which lies in or ends the last of the plan's first `phases`."""
        begin, phase = list(_placed(plan))[phases - 1]
        earlier = plan.phases[: phases - 1]
        # Run as if the phase went on to the end: a longer one may go on from here.
        open_ended = replace(plan, phases=(*earlier, replace(phase, steps=plan.steps - begin)))
        lead = (plan.steps, plan.start, *(_key(p, p.steps) for p in earlier))
        stops = sorted({s for s in self._stops if begin < s < step} | {step})
        done = [s for s in stops if (*lead, _key(phase, s - begin)) in self._known]
        states: list[Snapshot] | None = None
        if done:
            states = self._known[(*lead, _key(phase, done[-1] - begin))]
        elif earlier:
            states = hand_over(self._at(plan, phases - 1, begin))
        for stop in stops:
            if not done or stop > done[-1]:
                family = self._families[phase.site]
                states = advance_to(family, self._requests, open_ended, stop, states)
                self._known[(*lead, _key(phase, stop - begin))] = states
        assert states is not None
        return states


def _placed(plan: Plan) -> Iterable[tuple[int, Phase]]:
    """Each phase with its first step."""
    begin = plan.start
    for phase in plan.phases:
        yield begin, phase
        begin += phase.steps


def _key(phase: Phase, steps: int) -> Key:
    """What changes the state after the first `steps` steps of a phase that goes on."""
    if phase.skip == 0:
        return (phase.site, steps, phase.guidance)
    lead = (phase.site, steps, phase.guidance, phase.rule, phase.warmup)
    if steps <= phase.warmup:
        return lead
    return (*lead, phase.skip, phase.smoothing, phase.corrections)
