"""Claim: one correction a cycle and a damped gradient are what EC-Diff needs, with any scheduler.

Table 2 on the plan under test, then a sweep of each parameter with the others held. Every row is
held against the cloud-only pictures of the same prompts, seeds and scheduler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from ecdiff.bench import figures
from ecdiff.bench.quality import parameters
from ecdiff.bench.rows import Row, measure_rows, sheet
from ecdiff.bench.setup import Setup
from ecdiff.bench.sheet import Sheet
from ecdiff.errors import PlanError
from ecdiff.plan import Plan, split

LIMIT = 8
WARMUPS = (2, 3, 4, 5, 6, 7, 8, 10, 12)
SKIPS = (1, 2, 3, 4, 5, 6)
SMOOTHINGS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
HANDOFFS = (25, 30, 32, 34, 36, 38, 40, 45, 50)  # of 50
SWEPT = ("p", "k", "alpha", "s")


def table_2(plan: Plan) -> list[Row]:
    """The paper's rows, on `plan`."""

    def changed(**changes: Any) -> Plan:
        lead, *rest = plan.phases
        return Plan(plan.steps, (replace(lead, **changes), *rest))

    return [
        Row("EC-Diff", plan),
        Row("corrected twice", changed(corrections=2)),
        Row("without alpha", changed(smoothing=1.0)),
        Row("Euler", plan, "euler", "euler"),
        Row("DPM++ 2M", plan, "dpm++", "dpm++"),
    ]


def sweep(plan: Plan) -> Iterator[tuple[str, float, Plan]]:
    """(parameter, value, plan) for each value that makes a plan."""
    lead, steps = plan.phases[0], plan.steps
    values = {
        "p": WARMUPS,
        "k": SKIPS,
        "alpha": SMOOTHINGS,
        "s": sorted({round(s * steps / 50) for s in HANDOFFS}),
    }
    for name, across in values.items():
        for value in across:
            at = {"s": lead.steps, "p": lead.warmup, "k": lead.skip, "alpha": lead.smoothing}
            at[name] = value
            try:
                yield (
                    name,
                    value,
                    split(steps, int(at["s"]), int(at["p"]), int(at["k"]), float(at["alpha"])),
                )
            except PlanError:  # too short a lead for so long a warm-up
                continue


def measure(setup: Setup, guidance: float, say: Callable[[str], object]) -> dict[str, Any]:
    swept = list(sweep(setup.ec_diff))
    points = [Row(f"{name} = {value:g}", plan) for name, value, plan in swept]
    table = table_2(setup.ec_diff)
    found = measure_rows(setup, [*table, *points], guidance, say)
    return {
        "parameters": parameters(setup.ec_diff),
        "rows": found[: len(table)],
        "sweep": [
            {"parameter": name, "value": value} | figure
            for (name, value, _), figure in zip(swept, found[len(table) :], strict=True)
        ],
    }


def sheets(result: dict[str, Any]) -> list[Sheet]:
    out = []
    for found in result["results"]:
        title = f"{found['parameters']}, guidance {found['guidance']:g}"
        out.append(sheet(f"Table 2: {title}", found["rows"]))
        out.append(sheet(f"one parameter changed: {title}", found["sweep"]))
    return out


def draw(result: dict[str, Any]) -> Any:
    figure, panels = figures.page(len(SWEPT))
    for axes, name in zip(panels, SWEPT, strict=True):
        for found in result["results"]:
            points = [p for p in found["sweep"] if p["parameter"] == name]
            points = [p for p in points if p["psnr"] is not None]
            axes.plot(
                [p["value"] for p in points],
                [p["psnr"] for p in points],
                marker="o",
                label=f"guidance {found['guidance']:g}",
            )
        axes.set(xlabel=name, ylabel="PSNR against cloud-only, dB")
        axes.legend()
    return figure
