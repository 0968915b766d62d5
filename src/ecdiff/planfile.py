"""The plan that `ecdiff tune` found for one pair, in a file. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from ecdiff import pairs
from ecdiff.errors import InputError
from ecdiff.pairs import Pair
from ecdiff.plan import Plan, PlanDefaults, split
from ecdiff.validate import FORBID_UNKNOWN, parse


@dataclass(frozen=True)
class PlanFile:
    """`plan` is what `parameters` mean, spelled out; `tuned` says on what they were found."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    pair: str
    fingerprint: str
    parameters: PlanDefaults
    plan: Plan
    tuned: Mapping[str, Any]
    format: Literal[1] = 1

    def __post_init__(self) -> None:
        p = self.parameters
        if self.plan != split(p.steps, p.handoff_step, p.warmup, p.skip, p.smoothing):
            raise InputError("a plan file's plan and parameters differ: tune again")

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"plan": self.plan.to_json(), "tuned": dict(self.tuned)}


def read(path: Path, pair: Pair) -> PlanFile:
    """Raises InputError for a file that cannot be read or was made for another pair."""
    try:
        found = parse(PlanFile, path.read_bytes(), str(path))
    except OSError as error:
        raise InputError(f"cannot read the plan file {path}: {error.strerror}") from error
    own = pairs.fingerprint(pair)
    if found.fingerprint != own:
        raise InputError(
            f"{path} was tuned for pair {found.pair} ({found.fingerprint[:12]}), not for "
            f"{pair.name} ({own[:12]}): run ecdiff tune --pair {pair.name}"
        )
    return found


def parameters(path: Path, pair: Pair, steps: int) -> dict[str, Any]:
    """What `plan_for` takes in place of the pair's defaults, for `steps` steps.

    Raises InputError, also for a plan of another step count.
    """
    found = read(path, pair).parameters
    if found.steps != steps:
        raise InputError(
            f"{path} is a plan of {found.steps} steps, not {steps}: pass --steps {found.steps}, "
            f"or run ecdiff tune --steps {steps}"
        )
    named = asdict(found)
    del named["steps"]
    return named


def with_plan(pair: Pair, path: Path) -> Pair:
    """The pair with the file's plan for its default. Raises InputError."""
    return replace(pair, defaults=read(path, pair).parameters)
