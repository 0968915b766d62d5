"""The report's figures. Needs matplotlib, from the extra `report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecdiff.errors import InputError
from ecdiff.tune.search import ALPHAS, Point

if TYPE_CHECKING:
    from ecdiff.tune.run import Outcome, Row


def check() -> None:
    """Raises InputError where matplotlib is missing, before anything is measured."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise InputError(
            "the report's figures need matplotlib: pip install 'ecdiff[report]'"
        ) from error


def draw(outcome: Outcome, out: Path) -> list[str]:
    """Write the figures into `out` and give their names."""
    figures = {"noise.png": _noise, "stages.png": _stages, "pareto.png": _pareto}
    for name, figure in figures.items():
        page = figure(outcome)
        page.savefig(out / name, dpi=120, metadata={"Software": None})
    return list(figures)


def _page(columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    page = Figure(figsize=(6.4 * columns, 4.2), layout="constrained")
    return page, page.subplots(1, columns)


def _noise(outcome: Outcome) -> Any:
    """Figure 3, with p."""
    page, axes = _page()
    mean, deviation = outcome.curve.mean, outcome.curve.deviation
    steps = range(1, len(mean) + 1)
    low = [m - d for m, d in zip(mean, deviation, strict=True)]
    high = [m + d for m, d in zip(mean, deviation, strict=True)]
    axes.fill_between(steps, low, high, alpha=0.25, label="standard deviation")
    axes.plot(steps, mean, label="mean over the prompts")
    axes.axvline(outcome.warmup - 1, color="grey", linestyle="--", label=f"p = {outcome.warmup}")
    axes.set(xlabel="step", ylabel="change of the noise since the step before", ylim=(0, None))
    axes.legend()
    return page


def _stages(outcome: Outcome) -> Any:
    """Eq. 12 along alpha for each k, then along s; hollow where SSIM is below the floor."""
    page, (one, two) = _page(2)
    steps = outcome.settings.steps
    for skip in sorted({point.skip for point in outcome.rows}):
        points = [Point(skip, alpha, steps) for alpha in ALPHAS]
        _line(one, outcome, [p for p in points if p in outcome.rows], "smoothing", f"k = {skip}")
    leads = {(p.skip, p.smoothing): None for p in outcome.searched if p.handoff_step < steps}
    for skip, alpha in leads:
        points = sorted(
            (p for p in outcome.searched if (p.skip, p.smoothing) == (skip, alpha)),
            key=lambda p: p.handoff_step,
        )
        below = [p for p in points if p.handoff_step < steps]
        _line(two, outcome, below, "handoff_step", f"k = {skip}, alpha = {alpha}")
    one.set(xlabel="alpha", ylabel="objective (Eq. 12)", title="stage 1: s = T")
    two.set(xlabel="handoff step s", title="stage 2")
    two.xaxis.get_major_locator().set_params(integer=True)
    for axes in (one, two):
        axes.legend(title="hollow: below the floor")
    return page


def _line(axes: Any, outcome: Outcome, points: Sequence[Point], x: str, label: str) -> None:
    across = [getattr(point, x) for point in points]
    values = [outcome.rows[point].score.value for point in points]
    [line] = axes.plot(across, values, label=label)
    for at, value, point in zip(across, values, points, strict=True):
        kept = outcome.rows[point].measured.ssim >= outcome.floor
        colour = line.get_color()
        axes.plot(at, value, "o", color=colour, markerfacecolor=colour if kept else "white")


def _pareto(outcome: Outcome) -> Any:
    """Quality against speed-up: every plan that was drawn, and those that none beats in both."""
    page, axes = _page()
    whole = outcome.methods["cloud"].score.seconds

    def place(row: Row) -> tuple[float, float]:
        return whole / row.score.seconds, row.measured.ssim

    edge = [place(row) for p, row in outcome.rows.items() if p.handoff_step < row.plan.steps]
    cloud = [place(row) for p, row in outcome.rows.items() if p.handoff_step == row.plan.steps]
    named = {name: place(row) for name, row in outcome.methods.items()}
    axes.scatter(*zip(*edge, strict=True), s=12, color="tab:blue", label="EC-Diff")
    axes.scatter(
        *zip(*cloud, strict=True), s=12, color="tab:orange", label="without an edge (s = T)"
    )
    front = pareto([*edge, *cloud, *named.values()])
    axes.step(*zip(*front, strict=True), where="pre", color="grey", label="Pareto front")
    axes.scatter(*zip(*named.values(), strict=True), color="black", marker="s", s=20)
    for name, (x, y) in named.items():
        axes.annotate(name, (x, y), xytext=(5, 5), textcoords="offset points", fontsize=8)
    axes.scatter(*place(outcome.shipped), color="tab:red", marker="*", s=140, label="the plan")
    axes.axhline(outcome.floor, color="tab:red", linestyle=":", label="quality floor")
    axes.set(xlabel="speed-up over cloud-only", ylabel="SSIM against cloud-only")
    axes.legend()
    return page


def pareto(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (speed-up, quality) that no other beats or equals in both, by speed-up."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(set(places), reverse=True):
        if not front or y > front[-1][1]:
            front.append((x, y))
    return front[::-1]
