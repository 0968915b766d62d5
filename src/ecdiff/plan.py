"""Plans: which step runs where, and whether its noise is evaluated or extrapolated. No torch.

Every method of the papers is a plan:

| method     | phases                            |
| ---------- | --------------------------------- |
| cloud-only | cloud                             |
| edge-only  | edge                              |
| HybridSD   | cloud, edge, both with skip 0     |
| EC-Diff    | cloud with skip k > 0, then edge  |
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import ClassVar, Literal

from ecdiff.errors import InputError, PlanError
from ecdiff.validate import FORBID_UNKNOWN, parse, to_plain

Site = Literal["cloud", "edge"]
Method = Literal["ec-diff", "hybrid-sd", "cloud", "edge"]
METHODS: tuple[Method, ...] = ("ec-diff", "hybrid-sd", "cloud", "edge")
RULES = ("gradient", "reuse")
SPACES = ("output", "epsilon")


@dataclass(frozen=True)
class Phase:
    """A run of consecutive steps on one site under one extrapolation rule.

    With `skip` 0 every step is evaluated and the other parameters mean nothing. Otherwise
    `warmup` (p) steps are evaluated, then cycles of `skip` (k) extrapolated steps and
    `corrections` evaluated ones follow; `smoothing` (alpha) damps every gradient but the first
    (Eq. 6).
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    site: Site
    steps: int
    warmup: int = 0
    skip: int = 0
    smoothing: float = 1.0
    rule: str = "gradient"
    guidance: float | None = None  # overrides the request's, for this phase only
    space: str = "output"  # what is extrapolated: the network's output as it is, or its epsilon
    corrections: int = 1  # the paper's method; its ablation corrects twice

    def __post_init__(self) -> None:
        if self.site not in ("cloud", "edge"):
            raise PlanError(f"a phase runs on 'cloud' or 'edge', not on {self.site!r}")
        if self.steps < 1:
            raise PlanError(f"a phase has at least 1 step, not {self.steps}: leave it out instead")
        if self.rule not in RULES:
            raise PlanError(f"no extrapolation rule {self.rule!r}: use one of {', '.join(RULES)}")
        if self.space not in SPACES:
            raise PlanError(f"no space {self.space!r}: use one of {', '.join(SPACES)}")
        if self.skip < 0:
            raise PlanError(f"skip (k) is {self.skip}: use 0 (evaluate every step) or more")
        if self.warmup < 0:
            raise PlanError(f"warm-up (p) is {self.warmup}: use 0 or more")
        if self.corrections < 1:
            raise PlanError(f"corrections are {self.corrections}: use at least 1 a cycle")
        if not 0.0 <= self.smoothing <= 1.0:
            raise PlanError(f"smoothing (alpha) is {self.smoothing:g}: it lies in 0..1")
        if self.guidance is not None and not 0.0 <= self.guidance < float("inf"):
            raise PlanError(f"a phase's guidance is {self.guidance:g}: use a number >= 0")
        if self.skip and self.warmup < 2:
            raise PlanError(
                f"warm-up (p) is {self.warmup} with skip (k) {self.skip}: the first gradient "
                "needs two evaluated steps, use a warm-up of at least 2"
            )
        if self.skip and self.warmup > self.steps:
            raise PlanError(
                f"warm-up (p) is {self.warmup} but the {self.site} phase has only "
                f"{self.steps} steps: use a warm-up of at most {self.steps}"
            )

    def evaluates(self, i: int) -> bool:
        """Whether step `i`, counted from the phase's first step, calls the network."""
        if self.skip == 0 or i < self.warmup:
            return True
        return (i - self.warmup) % (self.skip + self.corrections) >= self.skip


@dataclass(frozen=True)
class Counts:
    """How a plan's steps divide. `extrapolated` counts both sites together."""

    cloud_evaluated: int
    extrapolated: int
    edge_extrapolated: int
    edge_evaluated: int


@dataclass(frozen=True)
class Plan:
    """The phases of one generation of `steps` steps (T), beginning at step `start`."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    steps: int
    phases: tuple[Phase, ...] = field(default=())
    start: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise PlanError(f"a plan has at least 1 step, not {self.steps}")
        if not 0 <= self.start < self.steps:
            raise PlanError(f"a plan of {self.steps} steps cannot start at step {self.start}")
        covered = sum(phase.steps for phase in self.phases)
        if covered != self.steps - self.start:
            raise PlanError(
                f"the phases have {covered} steps in all, but steps {self.start}..{self.steps} "
                f"are {self.steps - self.start}"
            )

    def locate(self, step: int) -> tuple[Phase, int]:
        """The phase that `step` (counted from 0) belongs to, and its index within that phase."""
        index = step - self.start
        if step >= self.start:
            for phase in self.phases:
                if index < phase.steps:
                    return phase, index
                index -= phase.steps
        raise PlanError(f"step {step} is not in the plan's steps {self.start}..{self.steps - 1}")

    def stretches(self) -> Iterator[tuple[Site, int, int]]:
        """(site, first step, end step) of each run of phases on one site."""
        begin = self.start
        for site, phases in groupby(self.phases, key=lambda phase: phase.site):
            end = begin + sum(phase.steps for phase in phases)
            yield site, begin, end
            begin = end

    def stretch_at(self, step: int) -> tuple[Site, int]:
        """The site that runs `step` and the step at which that site hands over or ends."""
        for site, begin, end in self.stretches():
            if begin <= step < end:
                return site, end
        raise PlanError(f"step {step} is not in the plan's steps {self.start}..{self.steps - 1}")

    @property
    def handoff_step(self) -> int:
        """s: how many steps are finished when the edge first takes over; T if it never does."""
        return next((begin for site, begin, _ in self.stretches() if site == "edge"), self.steps)

    def counts(self) -> Counts:
        marks = str(self)
        edge_skipped = sum(
            not phase.evaluates(i)
            for phase in self.phases
            if phase.site == "edge"
            for i in range(phase.steps)
        )
        return Counts(marks.count("C"), marks.count("x"), edge_skipped, marks.count("E"))

    def __str__(self) -> str:
        """One mark a step: `C` or `E` evaluated, `x` extrapolated, `.` before the plan's start."""
        marks = ["." * self.start]
        for phase in self.phases:
            letter = phase.site[0].upper()
            marks += [letter if phase.evaluates(i) else "x" for i in range(phase.steps)]
        return "".join(marks)

    def to_json(self) -> dict[str, object]:
        plain: dict[str, object] = to_plain(self)
        return plain

    @staticmethod
    def from_json(data: str | bytes | object) -> Plan:
        """Raises PlanError."""
        try:
            return parse(Plan, data, "plan")
        except PlanError:
            raise
        except InputError as error:
            raise PlanError(str(error)) from error


def cloud_only(steps: int) -> Plan:
    return split(steps, handoff_step=steps)


def edge_only(steps: int) -> Plan:
    return split(steps, handoff_step=0)


def split(
    steps: int, handoff_step: int, warmup: int = 0, skip: int = 0, smoothing: float = 1.0
) -> Plan:
    """`handoff_step` (s) steps in the cloud, the rest at the edge.

    With `skip` 0 this is HybridSD, otherwise EC-Diff (Algorithm 1 in the cloud).
    """
    if not 0 <= handoff_step <= steps:
        raise PlanError(
            f"handoff step (s) is {handoff_step} with {steps} steps: use a value in 0..{steps} "
            "(0 is edge only, the step count is cloud only)"
        )
    phases = []
    if handoff_step:
        phases.append(Phase("cloud", handoff_step, warmup, skip, smoothing))
    if handoff_step < steps:
        phases.append(Phase("edge", steps - handoff_step))
    return Plan(steps, tuple(phases))


@dataclass(frozen=True)
class PlanDefaults:
    """A pair's EC-Diff parameters, stated for `steps` steps (the paper's Table 5 has T = 50)."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    warmup: int
    skip: int
    smoothing: float
    handoff_step: int
    steps: int = 50

    def scaled(self, steps: int) -> PlanDefaults:
        """The same for another step count: s scales with T, p is capped at s."""
        handoff = round(self.handoff_step * steps / self.steps)
        return replace(self, steps=steps, handoff_step=handoff, warmup=min(self.warmup, handoff))


def plan_for(
    method: str,
    steps: int,
    defaults: PlanDefaults,
    *,
    warmup: int | None = None,
    skip: int | None = None,
    smoothing: float | None = None,
    handoff_step: int | None = None,
) -> Plan:
    """The plan of a named method, with what the caller set in place of the defaults.

    Raises PlanError for a parameter that the method does not have.
    """
    if method not in METHODS:
        raise PlanError(f"no method {method!r}: use one of {', '.join(METHODS)}")
    if steps < 1:
        raise PlanError(f"the number of steps is {steps}: use at least 1")
    if method != "ec-diff":
        for name, value in (("warm-up", warmup), ("skip", skip), ("smoothing", smoothing)):
            if value is not None:
                raise PlanError(f"{name} is a parameter of ec-diff; method {method} has none")
    if method in ("cloud", "edge"):
        if handoff_step is not None:
            raise PlanError(f"handoff step {handoff_step}: method {method} has no handoff")
        return cloud_only(steps) if method == "cloud" else edge_only(steps)
    if method == "hybrid-sd":
        return split(steps, steps - steps // 5 if handoff_step is None else handoff_step)
    scaled = defaults.scaled(steps)
    s = scaled.handoff_step if handoff_step is None else handoff_step
    k = scaled.skip if skip is None else skip
    p = min(scaled.warmup, s) if warmup is None else warmup
    if warmup is None and p < 2:  # too short a stretch to extrapolate in
        k = 0 if skip is None else skip
    return split(steps, s, p, k, scaled.smoothing if smoothing is None else smoothing)
