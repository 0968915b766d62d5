"""What a search found: Markdown, JSON, the plan file. Without dates: same search, same files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ecdiff.tune import plots
from ecdiff.tune.curve import IN_A_ROW, TOLERANCE
from ecdiff.tune.objective import Weights
from ecdiff.tune.run import Outcome, Row, hybrid
from ecdiff.tune.search import Point, grid, handoff_steps


def write(outcome: Outcome, out: Path) -> dict[str, Path]:
    """plan.json, report.json, report.md, step-times.json and the figures, in `out`."""
    figures = plots.draw(outcome, out)
    texts = {
        "report.json": _dump(to_json(outcome)),
        "step-times.json": _dump(outcome.times),
        "report.md": markdown(outcome),
        "plan.json": _dump(outcome.plan_file.to_json()),
    }
    for name, text in texts.items():
        unfinished = out / f".{name}.{os.getpid()}"
        unfinished.write_text(text)
        unfinished.replace(out / name)
    return {name: out / name for name in (*texts, *figures)}


def _dump(value: object) -> str:
    return json.dumps(value, indent=1) + "\n"


def to_json(outcome: Outcome) -> dict[str, Any]:
    """Everything that was evaluated, and what was concluded."""

    def row(r: Row) -> dict[str, Any]:
        return {"plan": str(r.plan), **asdict(r.measured), **asdict(r.score)}

    def point(p: Point | None) -> dict[str, Any] | None:
        return None if p is None else asdict(p) | row(outcome.rows[p])

    settings = outcome.settings
    return outcome.facts | {
        "bandwidth": settings.bandwidth,
        "measure": settings.measure,
        "clip": settings.clip,
        "step_seconds": outcome.times,
        "handoff_bytes": outcome.handoff,
        "noise_curve": asdict(outcome.curve),
        "warmup": outcome.warmup,
        "floor": outcome.floor,
        "methods": {name: row(r) for name, r in outcome.methods.items()},
        "evaluated": [point(p) for p in outcome.rows],
        "evaluations": outcome.evaluations,
        "best": point(outcome.best),
        "printed": point(outcome.printed),
        "exhaustive": settings.exhaustive
        and {"best": point(outcome.best_of_all), "printed": point(outcome.printed_of_all)},
    }


def markdown(outcome: Outcome) -> str:
    """The report for a person."""
    parts = [_head(outcome), _result(outcome), _noise(outcome), _stages(outcome), _printed(outcome)]
    if outcome.settings.exhaustive:
        parts.append(_exhaustive(outcome))
    return "\n\n".join(parts) + "\n"


def _head(o: Outcome) -> str:
    f, times = o.facts, o.times
    seconds = ", ".join(f"{name} {value * 1e3:.2f}" for name, value in times.items())
    how = "per-step times" if o.settings.measure == "steps" else "wall time"
    return (
        f"# The plan for pair {o.settings.pair.name}\n\n"
        f"{f['prompts']} prompts, seeds from {f['seed']}, {f['steps']} steps ({f['scheduler']}), "
        f"guidance {f['guidance']:g}, {f['size']}, {f['dtype']} on {f['device']}.\n\n"
        f"Time: {how}. One picture's parts in ms: {seconds}. Handoff: {o.handoff:,} bytes over "
        f"{o.settings.bandwidth:g} Mbit/s."
    )


def _result(o: Outcome) -> str:
    shipped, file = o.shipped, o.plan_file
    p = file.parameters
    lines = [
        "## The plan\n",
        f"p {p.warmup}, k {p.skip}, alpha {p.smoothing:g}, s {p.handoff_step} of {p.steps}: "
        f"`{shipped.plan}`\n",
        f"It maximises Eq. 12 among plans whose SSIM is at least {o.floor:.4f}: that of HybridSD "
        f"with {o.methods[hybrid(10, p.steps)].plan.counts().edge_evaluated} edge steps less "
        f"{o.settings.floor:g}. Found with {o.evaluations} evaluations of the objective.\n",
    ]
    if o.best is None:
        lines.insert(
            1, "**No plan of EC-Diff in the range keeps the quality floor: this is HybridSD.**\n"
        )
    names = [(name, row) for name, row in o.methods.items()]
    table = _table(o, ["method"], [*names, ("**the plan**", shipped)])
    return "\n".join(lines) + f"\n{table}" + _beaten(o)


def _beaten(o: Outcome) -> str:
    """A word on evaluated plans that are as fast and as close to the cloud: Eq. 12 wants more."""
    plan = o.shipped
    better = [
        row
        for row in o.rows.values()
        if row.measured.ssim >= plan.measured.ssim
        and row.score.seconds <= plan.score.seconds
        and row is not plan
    ]
    if not better:
        return ""
    best = min(better, key=lambda row: row.score.seconds)
    speedup = o.methods["cloud"].score.seconds / best.score.seconds
    ours, theirs = plan.plan.counts().cloud_evaluated, best.plan.counts().cloud_evaluated
    return (
        f"\n\n{len(better)} of the evaluated plans are as close to the cloud and as fast, up to "
        f"{speedup:.2f} times the cloud's speed at SSIM {best.measured.ssim:.4f}: `{best.plan}`. "
        f"What the plan has over that one is Burden, which counts all cloud steps; of evaluated "
        f"ones it asks the cloud for {ours}, the other for {theirs}."
    )


def _noise(o: Outcome) -> str:
    rows = [f"| {i} | {m:.4f} | {d:.4f} |" for i, m, d in _points(o)]
    return "\n".join(
        [
            "## Warm-up p: the noise-difference curve\n",
            "![Noise differences](noise.png)\n",
            f"A difference |eps_i - eps_(i-1)| / |eps_(i-1)| is stable when it and the "
            f"{IN_A_ROW - 1} after it are at most {TOLERANCE:g} times the curve's median. The "
            "first gradient is the difference of the last two warm-up steps; p is the smallest "
            f"number that makes it the first stable one: p = {o.warmup}.\n",
            "| step | mean | deviation |\n| ---: | ---: | ---: |",
            *rows,
        ]
    )


def _points(o: Outcome) -> Iterable[tuple[int, float, float]]:
    values = zip(o.curve.mean, o.curve.deviation, strict=True)
    return ((i, m, d) for i, (m, d) in enumerate(values, 1))


def _stages(o: Outcome) -> str:
    steps = o.settings.steps

    def rows(points: Iterable[Point]) -> list[tuple[str, Row]]:
        return [(f"{p.skip} | {p.smoothing} | {p.handoff_step}", o.rows[p]) for p in points]

    one = [p for p in o.searched if p.handoff_step == steps]
    two = [p for p in o.searched if p.handoff_step < steps]
    names = ["k", "alpha", "s"]
    return (
        "## The search\n\n![The objective along both stages](stages.png)\n\n"
        "![Quality against speed-up](pareto.png)\n\n"
        f"Stage 1 (cloud only, Burden 0), in the order of evaluation:\n\n"
        f"{_table(o, names, rows(one))}\n\n"
        "Stage 2, then the points of other k that could have beaten its result:\n\n"
        f"{_table(o, names, rows(two))}"
    )


def _printed(o: Outcome) -> str:
    """Whether Eq. 12 as printed has any optimum but the earliest handoff."""
    w, steps, p = Weights(), o.settings.steps, o.printed
    alike = sorted(
        (q for q in o.rows if (q.skip, q.smoothing) == (p.skip, p.smoothing)),
        key=lambda q: q.handoff_step,
    )
    alike = [q for q in alike if q.handoff_step < steps]
    first, last = o.rows[alike[0]].score, o.rows[alike[-1]].score
    apart = max(alike[-1].handoff_step - alike[0].handoff_step, 1)

    def each(name: str, weight: float) -> float:
        change: float = getattr(first, name) - getattr(last, name)
        return weight * change / apart

    burden = w.burden / (steps - o.earliest)
    at_end = p.handoff_step == o.earliest
    return (
        "## Eq. 12 as printed\n\n"
        f"Without the floor the two stages end at k {p.skip}, alpha {p.smoothing}, "
        f"s {p.handoff_step} (objective {o.rows[p].score.value:.4f}, SSIM "
        f"{o.rows[p].measured.ssim:.4f}), "
        f"{'the earliest handoff allowed' if at_end else 'inside the range'}. Each earlier s earns "
        f"{burden:.4f} from Burden; for this k and alpha, between s {alike[0].handoff_step} and "
        f"{alike[-1].handoff_step}, it earns {each('efficiency', w.efficiency):+.4f} from "
        f"Efficiency and {each('quality', w.quality):+.4f} from Quality. SSIM would have to fall "
        f"by {burden / w.quality:.3f} a step to outweigh Burden alone"
        + (
            ". So Eq. 12 alone always takes the earliest s here, and the different s of the "
            "paper's Table 5 need another reason, such as the floor above."
            if at_end
            else "."
        )
    )


def _exhaustive(o: Outcome) -> str:
    assert o.printed_of_all is not None
    total = len(grid(o.settings.steps, o.earliest))
    names = ["which", "k", "alpha", "s"]

    def named(which: str, p: Point) -> tuple[str, Row]:
        return f"{which} | {p.skip} | {p.smoothing} | {p.handoff_step}", o.rows[p]

    leads = {(p.skip, p.smoothing) for p in grid(o.settings.steps, o.earliest)}
    values = handoff_steps(o.settings.steps, o.earliest)
    early = sum(
        max(values, key=lambda s: o.rows[Point(*lead, s)].score.value) == o.earliest
        for lead in leads
    )
    rows = [named("Eq. 12, search", o.printed), named("Eq. 12, grid", o.printed_of_all)]
    text = f"## Against the whole grid ({total} points)\n\n"
    if o.best is not None and o.best_of_all is not None:
        rows += [named("floor, search", o.best), named("floor, grid", o.best_of_all)]
        ratio = o.rows[o.best].score.value / o.rows[o.best_of_all].score.value
        text += (
            f"The search found {ratio:.2%} of the grid's best objective above the floor with "
            f"{o.evaluations} evaluations, {o.evaluations / total:.1%} of the grid's.\n\n"
        )
    text += (
        f"By Eq. 12 as printed, s = {o.earliest} is the best handoff for {early} of the "
        f"{len(leads)} combinations of k and alpha.\n\n"
    )
    return text + _table(o, names, rows)


def _table(o: Outcome, names: Sequence[str], rows: Iterable[tuple[str, Row]]) -> str:
    whole = o.methods["cloud"].score.seconds
    figures = ["SSIM", "PSNR dB", "Efficiency", "Burden", "objective"]
    figures += ["cloud evaluations", "seconds", "speed-up"]
    lines = [
        "| " + " | ".join([*names, *figures]) + " |",
        "|" + " --- |" * len(names) + " ---: |" * len(figures),
    ]
    for name, row in rows:
        s, m = row.score, row.measured
        decibels = "equal" if m.psnr is None else f"{m.psnr:.2f}"
        low = "" if m.ssim >= o.floor else " (low)"
        lines.append(
            f"| {name} | {m.ssim:.4f}{low} | {decibels} | {s.efficiency:.3f} | {s.burden:.2f} | "
            f"{s.value:.4f} | {row.plan.counts().cloud_evaluated} | {s.seconds:.3f} | "
            f"{whole / s.seconds:.2f} |"
        )
    return "\n".join(lines)
