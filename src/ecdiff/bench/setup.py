"""What the benchmarks run on: a pair, prompts, seeds, a plan; and what was measured already."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from ecdiff import pairs, planfile
from ecdiff.errors import InputError
from ecdiff.measure import BATCH, Families, batches, handoff_bytes, seconds_of, step_times
from ecdiff.plan import Plan, plan_for
from ecdiff.prompts import read_prompts
from ecdiff.quality.perceptual import Net, find_weights
from ecdiff.request import Request
from ecdiff.tune.cache import Cache

T = TypeVar("T")
PAPERS_GUIDANCE = 7.5  # the default of the pipelines the paper runs
PAPERS_BANDWIDTH = 18.88  # Mbit/s, section A.6.1
CACHE_FORMAT = 1  # raise it when the same settings would give other figures


@dataclass(frozen=True)
class Asked:
    """A benchmark's settings as the command line gives them."""

    pair: str = "reference"
    prompts: Path | None = None
    column: str | None = None
    limit: int | None = None
    seed: int = 0
    guidance: Sequence[float] = ()
    steps: int = 50
    plan: Path | None = None
    lpips: Net | None = None
    run: Path = Path("bench")
    device: str | None = None
    dtype: str | None = None


class Setup:
    """One benchmark's ground. Models are loaded when something must be measured.

    Raises InputError for settings that make no sense, before any model is loaded.
    """

    def __init__(self, asked: Asked, limit: int) -> None:
        self.asked, self.pair, self.steps = asked, pairs.resolve(asked.pair), asked.steps
        pairs.check_pictures(self.pair)
        if asked.steps < 10:
            raise InputError(f"a benchmark of {asked.steps} steps: use at least 10")
        if self.pair.name != "reference" and asked.prompts is None:
            raise InputError(f"pair {self.pair.name} has no prompts of its own: pass --prompts")
        self.texts = read_prompts(asked.prompts, asked.limit or limit, asked.column)
        self.device, self.dtype = pairs.place(asked.device, asked.dtype)
        self.guidances = list(
            dict.fromkeys(asked.guidance or (PAPERS_GUIDANCE, self.pair.guidance))
        )
        named: Mapping[str, Any] = {}
        if asked.plan:
            named = planfile.parameters(asked.plan, self.pair, asked.steps)
        self.ec_diff: Plan = plan_for("ec-diff", asked.steps, self.pair.defaults, **named)
        if self.ec_diff.phases[0].skip == 0:
            raise InputError(
                "the plan under test extrapolates nothing: tune one with k of 1 or more"
            )
        self.lpips = _lpips_network(asked.lpips)
        asked.run.mkdir(parents=True, exist_ok=True)
        facts = {
            "format": CACHE_FORMAT,
            "fingerprint": pairs.fingerprint(self.pair),
            "size": [self.pair.width, self.pair.height],
            "device": self.device.type,
            "dtype": str(self.dtype),
        }
        self.cache = Cache(asked.run / "measured.sqlite", facts)

    @cached_property
    def families(self) -> Families:
        return {
            "cloud": pairs.load(self.pair, "cloud", self.device, self.dtype),
            "edge": pairs.load(self.pair, "edge", self.device, self.dtype),
        }

    @property
    def facts(self) -> dict[str, Any]:
        """What a result says of how it was made."""
        return {
            "pair": self.pair.name,
            "revision": self.pair.revision,
            "prompts": len(self.texts),
            "seed": self.asked.seed,
            "steps": self.steps,
            "ec_diff": str(self.ec_diff),
            "device": self.device.type,
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    def requests(self, guidance: float) -> list[Request]:
        """One picture a prompt; prompt j has seed + j."""
        return [
            Request(text, self.pair.height, self.pair.width, guidance, (self.asked.seed + j,))
            for j, text in enumerate(self.texts)
        ]

    def parts(self, guidance: float) -> Iterator[Sequence[Request]]:
        """The requests, one network batch at a time."""
        return batches(self.requests(guidance), BATCH)

    def keep(
        self, kind: str, requests: Sequence[Request], more: Any, measure: Callable[[], T]
    ) -> T:
        """`measure()`, or what it gave when it was last asked the same."""
        about = {
            "kind": kind,
            "requests": [
                [r.prompt, r.seeds, r.guidance, r.scheduler, r.height, r.width] for r in requests
            ],
            "more": more,
        }
        return self.cache.get(about, measure)

    def times(self, guidance: float) -> dict[str, float]:
        """Seconds of one picture's parts on this machine, measured once a run folder."""
        first = self.requests(guidance)[:1]
        return self.keep("step times", first, {}, lambda: step_times(self.families, first[0]))

    def seconds(self, plan: Plan, guidance: float) -> float:
        """Of one picture, its handoff at the paper's 18.88 Mbit/s included."""
        first, known = self.requests(guidance)[:1], pairs.fingerprint(self.pair)
        size = self.keep("bytes", first, {}, lambda: handoff_bytes(self.families, first[0], known))
        return seconds_of(plan, self.times(guidance), size, PAPERS_BANDWIDTH)

    def close(self) -> None:
        self.cache.close()


def _lpips_network(asked: Net | None) -> Net | None:
    """The network whose weights are there. Raises InputError when the one asked for is not."""
    try:
        find_weights(asked or "alex")
    except InputError:
        if asked:
            raise
        return None
    return asked or "alex"
