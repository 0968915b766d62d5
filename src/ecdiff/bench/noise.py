"""Claim: the noise changes much over the first steps and little over the later ones.

Figure 3: how far the guided noise of cloud-only moves from one step to the next, relative to its
size, and the warm-up p that the rule of `ecdiff tune` reads off it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from ecdiff.bench import figures
from ecdiff.bench.setup import Setup
from ecdiff.bench.sheet import Sheet
from ecdiff.tune.cache import Cache
from ecdiff.tune.curve import warmup
from ecdiff.tune.evaluate import Evaluator

LIMIT = 8


def measure(setup: Setup, guidance: float, say: Callable[[str], object]) -> dict[str, Any]:
    requests = setup.requests(guidance)

    def curve() -> dict[str, Any]:
        say(f"guidance {guidance:g}: the noise of every step")
        nothing_kept = Cache(Path(":memory:"), {})
        return asdict(Evaluator(setup.families, requests, setup.steps, [], nothing_kept).curve)

    kept = setup.keep("noise", requests, {"steps": setup.steps}, curve)
    return {
        "mean": [round(value, 5) for value in kept["mean"]],
        "deviation": [round(value, 5) for value in kept["deviation"]],
        "warmup": warmup(kept["mean"], setup.ec_diff.handoff_step),
    }


def sheets(result: dict[str, Any]) -> list[Sheet]:
    def change(values: list[float]) -> str:
        return f"{median(values):.3f}"

    rows = [
        [
            f"{found['guidance']:g}",
            change(found["mean"][:5]),
            change(found["mean"][len(found["mean"]) // 2 :]),
            str(found["warmup"]),
        ]
        for found in result["results"]
    ]
    headings = ["guidance", "change, first 5 steps", "change, second half", "p"]
    return [Sheet("median relative change of the noise a step", headings, rows)]


def draw(result: dict[str, Any]) -> Any:
    figure, panels = figures.page(len(result["results"]))
    for axes, found in zip(panels, result["results"], strict=True):
        steps = range(1, len(found["mean"]) + 1)
        both = list(zip(found["mean"], found["deviation"], strict=True))
        axes.fill_between(steps, [m - d for m, d in both], [m + d for m, d in both], alpha=0.25)
        axes.plot(steps, found["mean"], label="mean and standard deviation")
        axes.axvline(
            found["warmup"] - 1, color="grey", linestyle="--", label=f"p = {found['warmup']}"
        )
        axes.set(
            xlabel="step",
            ylabel="change of the noise since the step before",
            ylim=(0, None),
            title=f"guidance {found['guidance']:g}",
        )
        axes.legend()
    return figure
