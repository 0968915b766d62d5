"""The pictures of many plans on the same prompts, sharing every step that two plans share.

Plans of one (p, k, alpha) differ only in where the edge takes over, so one run of the cloud model
is kept at each s that may be asked for and the edge finishes from there; and plans of one p begin
with the same p evaluated steps. What comes out is, bit for bit, what each plan draws on its own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ecdiff.measure import BATCH, Families, batches, begin, hand_over, wait_for
from ecdiff.plan import Plan, cloud_only, split
from ecdiff.quality import psnr, ssim
from ecdiff.request import Request
from ecdiff.trajectory import Family, Snapshot, advance, snapshot
from ecdiff.tune.cache import Cache
from ecdiff.tune.curve import Curve

Lead = tuple[int, int, float]  # the cloud's p, k and alpha
PLAIN: Lead = (0, 0, 1.0)  # every step evaluated


@dataclass(frozen=True)
class Stop:
    """All prompts' states at one step, batch by batch, and the wall seconds a picture took."""

    states: list[list[Snapshot]]
    seconds: float = 0.0


@dataclass(frozen=True)
class Measured:
    """One plan's mean quality against cloud-only, and its wall seconds a picture."""

    ssim: float
    psnr: float | None  # dB; None where the pictures are equal
    wall: float


@dataclass(frozen=True)
class Reference:
    """The cloud-only run that all others are held against."""

    pictures: Tensor  # [B, 3, H, W]
    wall: float
    curve: Curve
    stops: dict[int, Stop]


class Evaluator:
    """Measures plans of `steps` steps on `requests`, each plan once; keeps to `cache`."""

    def __init__(
        self,
        families: Families,
        requests: Sequence[Request],
        steps: int,
        handoffs: Sequence[int],  # the s that plans are likely to have
        cache: Cache,
        batch: int = BATCH,
    ) -> None:
        self._families, self._steps, self._cache = families, steps, cache
        self._handoffs = sorted(handoffs)
        self._parts = list(batches(requests, batch))
        self._count = len(requests)
        self._first: dict[int, Stop] = {}  # by p: no k or alpha has touched these steps yet
        self._runs: dict[Lead, dict[int, Stop]] = {}  # by s, of the last lead only: they are large

    def measure(self, plan: Plan) -> Measured:
        """Against the cloud-only pictures of the same prompts and seeds."""
        return Measured(**self._cache.get({"plan": plan.to_json()}, lambda: self._measure(plan)))

    @cached_property
    def curve(self) -> Curve:
        """Figure 3 on these prompts."""
        kept = self._cache.get({"curve": self._steps}, lambda: asdict(self._reference.curve))
        return Curve(tuple(kept["mean"]), tuple(kept["deviation"]))

    def draw(self, plan: Plan) -> tuple[Tensor, float]:
        """Pictures [B, 3, H, W] of a plan that begins in the cloud with `split`'s phases, or of
        edge-only; and the wall seconds of one, without encoding and transfer."""
        s = plan.handoff_step
        stop = self._cloud(plan) if s else None
        if s < plan.steps:
            given = Stop([hand_over(part) for part in stop.states], stop.seconds) if stop else None
            stop = self._advance(self._families["edge"], plan, plan.steps, given)
        assert stop is not None
        return self._decode(stop)

    def _measure(self, plan: Plan) -> dict[str, Any]:
        reference = self._reference
        if plan == cloud_only(plan.steps):
            return {"ssim": 1.0, "psnr": None, "wall": reference.wall}
        pictures, wall = self.draw(plan)
        decibels = psnr(pictures, reference.pictures)
        return {
            "ssim": float(ssim(pictures, reference.pictures).mean()),
            "psnr": float(decibels.mean()) if decibels.isfinite().all() else None,
            "wall": wall,
        }

    def _cloud(self, plan: Plan) -> Stop:
        """The cloud's states at the plan's handoff, from the nearest earlier ones there are."""
        phase, s = plan.phases[0], plan.handoff_step
        lead = (phase.warmup, phase.skip, phase.smoothing) if phase.skip else PLAIN
        run = self._run(lead)
        if s not in run:
            whole = split(self._steps, self._steps, *lead)
            at = max((stop for stop in run if stop < s), default=0)
            for step in [*(x for x in self._handoffs if at < x < s), s]:
                run[step] = self._advance(self._families["cloud"], whole, step, run.get(at))
                at = step
        return run[s]

    def _run(self, lead: Lead) -> dict[int, Stop]:
        if lead == PLAIN:
            return self._reference.stops
        if lead not in self._runs:
            p = lead[0]
            if p not in self._first:
                plan = split(self._steps, self._steps, p, 1)
                self._first[p] = self._advance(self._families["cloud"], plan, p, None)
            self._runs = {lead: {p: self._first[p]}}
        return self._runs[lead]

    @cached_property
    def _reference(self) -> Reference:
        """Every step evaluated, watching how the noise changes."""
        family, plan = self._families["cloud"], cloud_only(self._steps)
        states: dict[int, list[list[Snapshot]]] = {}
        seconds: dict[int, float] = {}
        changes = []
        for part in self._parts:
            members, before, rows = begin(family, part, plan), None, []
            began = time.perf_counter()
            while not members[0].finished:
                noise = family.predict(members)
                for member, eps in zip(members, torch.split(noise, 1), strict=True):
                    family.step(member, eps)
                    member.step += 1
                if before is not None:
                    rows.append(_relative(noise, before))
                before, step = noise, members[0].step
                if step == plan.steps or step in self._handoffs:
                    states.setdefault(step, []).append([snapshot(family, m) for m in members])
                    wait_for(noise.device)
                    spent = (time.perf_counter() - began) / self._count
                    seconds[step] = seconds.get(step, 0.0) + spent
            changes.append(torch.stack(rows))
        stops = {step: Stop(each, seconds[step]) for step, each in states.items()}
        pictures, wall = self._decode(stops[plan.steps])
        found = torch.cat(changes, 1)  # [T-1, B]
        mean, deviation = found.mean(1).tolist(), found.std(1, correction=0).tolist()
        return Reference(pictures, wall, Curve(tuple(mean), tuple(deviation)), stops)

    def _advance(self, family: Family, plan: Plan, step: int, stop: Stop | None) -> Stop:
        """All prompts from `stop`, or from their seeds, to `step`."""
        spent, states = stop.seconds if stop else 0.0, []
        for i, part in enumerate(self._parts):
            members = begin(family, part, plan, stop.states[i] if stop else None)
            began = time.perf_counter()
            while members[0].step < step:
                advance(family, members)
            wait_for(members[0].latents.device)
            spent += (time.perf_counter() - began) / self._count
            states.append([snapshot(family, member) for member in members])
        return Stop(states, spent)

    def _decode(self, stop: Stop) -> tuple[Tensor, float]:
        began, decode = time.perf_counter(), self._families["edge"].decode
        pictures = torch.cat([decode(torch.cat([s.latents for s in part])) for part in stop.states])
        wait_for(pictures.device)
        return pictures, stop.seconds + (time.perf_counter() - began) / self._count


def _relative(noise: Tensor, before: Tensor) -> Tensor:
    """|noise - before| / |before| of each row of [B, ...]."""
    now, then = noise.float().flatten(1), before.float().flatten(1)
    lengths: Tensor = torch.linalg.vector_norm(now - then, dim=1)
    lengths = lengths / torch.linalg.vector_norm(then, dim=1)
    return lengths.cpu()
