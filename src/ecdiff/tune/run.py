"""`ecdiff tune`: measure, search, and write the plan file and the report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ecdiff import __version__, pairs
from ecdiff.errors import InputError
from ecdiff.measure import Families, handoff_bytes, seconds_of, step_times
from ecdiff.pairs import Pair
from ecdiff.plan import Plan, PlanDefaults, cloud_only, edge_only, split
from ecdiff.planfile import PlanFile
from ecdiff.request import Request
from ecdiff.tune.cache import Cache
from ecdiff.tune.curve import Curve, warmup
from ecdiff.tune.evaluate import Evaluator, Measured
from ecdiff.tune.objective import EARLIEST, Objective, Rank, Score, rank, scaled
from ecdiff.tune.search import Point, grid, handoff_steps, two_stages

WIFI = 18.88  # Mbit/s, the paper's mean (A.6.1)
FEWEST_STEPS = 10


@dataclass(frozen=True)
class Settings:
    """What is tuned, on what, and how. Raises InputError."""

    pair: Pair
    prompts: tuple[str, ...]
    steps: int = 50
    seed: int = 1000  # picture j has seed + j; none of the benchmarks' seeds
    guidance: float | None = None  # None: the pair's
    bandwidth: float = WIFI  # Mbit/s
    measure: str = "steps"  # or "wall"
    times: Mapping[str, float] | None = None  # recorded step times; None: measured here
    exhaustive: bool = False
    clip: bool = False
    floor: float = 0.02  # how far below HybridSD's SSIM, with a fifth of the steps at the edge
    requests: tuple[Request, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.steps < FEWEST_STEPS:
            raise InputError(f"--steps is {self.steps}: a search needs at least {FEWEST_STEPS}")
        if self.measure not in ("steps", "wall"):
            raise InputError(f"--measure is {self.measure!r}: use steps or wall")
        if not self.bandwidth > 0:
            raise InputError(f"--bandwidth is {self.bandwidth:g}: use Mbit/s above 0")
        if not 0 <= self.floor <= 1:
            raise InputError(f"--quality-floor is {self.floor:g}: use an SSIM in 0..1")
        pair, g = self.pair, self.pair.guidance if self.guidance is None else self.guidance
        requests = tuple(
            Request(text, pair.height, pair.width, g, seeds=(self.seed + j,))
            for j, text in enumerate(self.prompts)
        )
        object.__setattr__(self, "requests", requests)

    def facts(self, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """All that changes what is measured, beside the plan."""
        first = self.requests[0]
        return {
            "fingerprint": pairs.fingerprint(self.pair),
            "prompts": len(self.prompts),
            "prompts_sha256": hashlib.sha256(json.dumps(self.prompts).encode()).hexdigest(),
            "seed": self.seed,
            "steps": self.steps,
            "guidance": first.guidance,
            "scheduler": first.scheduler,
            "size": f"{first.width}x{first.height}",
            "device": str(device),
            "dtype": str(dtype).removeprefix("torch."),
            "ecdiff": __version__,
            "torch": str(torch.__version__),
        }


@dataclass(frozen=True)
class Row:
    """One evaluated point, or a method beside them."""

    plan: Plan
    measured: Measured
    score: Score


@dataclass(frozen=True)
class Outcome:
    """What a search found, and all that the report shows of it."""

    settings: Settings
    facts: dict[str, Any]
    times: Mapping[str, float]
    handoff: int  # bytes
    curve: Curve
    warmup: int
    floor: float  # SSIM
    methods: dict[str, Row]  # cloud, edge, HybridSD
    rows: dict[Point, Row]  # everything evaluated
    best: Point | None  # None: no plan of EC-Diff keeps the floor
    evaluations: int  # it took to find `best`
    printed: Point  # the optimum of Eq. 12 as printed, by the paper's two stages
    best_of_all: Point | None = None  # by --exhaustive, above the floor
    printed_of_all: Point | None = None  # and without it

    @property
    def earliest(self) -> int:
        """s' of Eq. 11."""
        return scaled(EARLIEST, self.settings.steps)

    @property
    def searched(self) -> list[Point]:
        """What finding `best` evaluated, in that order."""
        return list(self.rows)[: self.evaluations]

    @property
    def plan_file(self) -> PlanFile:
        pair, row = self.settings.pair, self.shipped
        phase, s = row.plan.phases[0], row.plan.handoff_step
        parameters = PlanDefaults(phase.warmup, phase.skip, phase.smoothing, s, row.plan.steps)
        tuned = self.facts | {
            "bandwidth": self.settings.bandwidth,
            "measure": self.settings.measure,
            "step_seconds": self.times,
            "handoff_bytes": self.handoff,
            "quality_floor": round(self.floor, 4),
            "ssim": round(row.measured.ssim, 4),
            "speedup": round(self.methods["cloud"].score.seconds / row.score.seconds, 3),
            "objective": round(row.score.value, 4),
        }
        return PlanFile(pair.name, pairs.fingerprint(pair), parameters, row.plan, tuned)

    @property
    def shipped(self) -> Row:
        """The best plan above the floor; where EC-Diff has none, HybridSD's own."""
        if self.best is None:
            return self.methods[hybrid(10, self.settings.steps)]
        return self.rows[self.best]


def hybrid(edge_steps: int, steps: int) -> str:
    """The name of HybridSD with that many of 50 steps at the edge."""
    return f"HybridSD, {scaled(edge_steps, steps)} edge steps"


def methods(steps: int) -> dict[str, Plan]:
    """What every plan is shown beside."""
    plans = {"cloud": cloud_only(steps), "edge": edge_only(steps)}
    return plans | {hybrid(k, steps): split(steps, steps - scaled(k, steps)) for k in (10, 25)}


class Tuner:
    """One search: scores points and remembers which."""

    def __init__(
        self, settings: Settings, families: Families, cache: Cache, say: Callable[[str], object]
    ) -> None:
        self._settings, self._cache, self._say = settings, cache, say
        first, steps = settings.requests[0], settings.steps
        known = pairs.fingerprint(settings.pair)
        say("measuring the step times")
        self.handoff = cache.get({"bytes": 1}, lambda: handoff_bytes(families, first, known))
        self.times: Mapping[str, float] = settings.times or cache.get(
            {"times": 1}, lambda: step_times(families, first)
        )
        self._plans = methods(steps)
        earliest = scaled(EARLIEST, steps)
        stops = {plan.handoff_step for plan in self._plans.values()}
        self._evaluator = Evaluator(
            families,
            settings.requests,
            steps,
            sorted({*handoff_steps(steps, earliest), *stops} - {0, steps}),
            cache,
        )
        say("cloud-only: the pictures to be compared with, and the noise curve")
        self.curve = self._evaluator.curve
        self.warmup = warmup(self.curve.mean, latest=earliest)
        cloud, edge = (self._seconds(self._plans[name]) for name in ("cloud", "edge"))
        self.objective = Objective(steps, cloud, edge, settings.clip)
        self.methods = {name: self._row(plan) for name, plan in self._plans.items()}
        self.floor = self.methods[hybrid(10, steps)].measured.ssim - settings.floor
        self.rows: dict[Point, Row] = {}

    def plan(self, point: Point) -> Plan:
        steps = self._settings.steps
        return split(steps, point.handoff_step, self.warmup, point.skip, point.smoothing)

    def score(self, point: Point) -> Score:
        if point not in self.rows:
            k, alpha, s = point.skip, point.smoothing, point.handoff_step
            self._say(f"k {k}, alpha {alpha}, s {s} ({len(self.rows)} evaluated)")
            self.rows[point] = self._row(self.plan(point))
        return self.rows[point].score

    def bound(self, point: Point) -> float:
        """What `point` is worth if its pictures equal the cloud's, by the step times."""
        s = point.handoff_step
        seconds = self._by_steps(self.plan(point))
        if self._settings.measure == "wall":  # the step times' ratio, on the wall clock's scale
            whole = self._by_steps(self._plans["cloud"])
            seconds *= self.objective.cloud_seconds / whole
        return self.objective.score(s, 1.0, seconds).value

    def search(self, floor: float | None) -> Point:
        """The paper's two stages; with a floor, and the other k's chance against their result."""

        def ranked(point: Point) -> Rank:
            return rank(self.score(point), floor)

        bound = None if floor is None else self.bound
        return two_stages(self._settings.steps, self.objective.earliest, ranked, bound)

    def exhaustive(self) -> tuple[Point, Point]:
        """The best of the whole grid: above the floor, and by Eq. 12 alone."""
        points = grid(self._settings.steps, self.objective.earliest)
        for point in points:
            self.score(point)
        above = max(points, key=lambda point: rank(self.score(point), self.floor))
        return above, max(points, key=lambda point: self.score(point).value)

    def _row(self, plan: Plan) -> Row:
        measured = self._evaluator.measure(plan)
        seconds = self._seconds(plan)
        return Row(plan, measured, self.objective.score(plan.handoff_step, measured.ssim, seconds))

    def _seconds(self, plan: Plan) -> float:
        if self._settings.measure == "steps":
            return self._by_steps(plan)
        sent = self.handoff * 8 / (self._settings.bandwidth * 1e6) if plan.handoff_step else 0.0
        return self._evaluator.measure(plan).wall + sent

    def _by_steps(self, plan: Plan) -> float:
        return seconds_of(plan, self.times, self.handoff, self._settings.bandwidth)


def tune(
    settings: Settings,
    out: Path,
    device: str | None,
    dtype: str | None,
    say: Callable[[str], object],
) -> Outcome:
    """Search, keeping every measurement in `out`. Raises InputError, PairError."""
    where, precision = pairs.place(device, dtype)
    facts = settings.facts(where, precision)
    cache = Cache(out / "measured.sqlite", facts)
    try:
        say("loading the models")
        families: Families = {
            "cloud": pairs.load(settings.pair, "cloud", where, precision),
            "edge": pairs.load(settings.pair, "edge", where, precision),
        }
        tuner = Tuner(settings, families, cache, say)
        best = tuner.search(tuner.floor)
        kept, evaluations = rank(tuner.score(best), tuner.floor)[0], len(tuner.rows)
        printed = tuner.search(None)
        of_all = tuner.exhaustive() if settings.exhaustive else (None, None)
        return Outcome(
            settings,
            facts,
            tuner.times,
            tuner.handoff,
            tuner.curve,
            tuner.warmup,
            tuner.floor,
            tuner.methods,
            tuner.rows,
            best if kept else None,
            evaluations,
            printed,
            *of_all,
        )
    finally:
        cache.close()
