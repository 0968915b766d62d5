"""The benchmarks' figures. Needs matplotlib, from the extra `report`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def page(columns: int) -> tuple[Any, list[Any]]:
    """A page with one panel a guidance, and its panels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0 * columns, 4.4), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def quality_against_speed(results: Sequence[Mapping[str, Any]]) -> Any:
    """PSNR against speed-up, one panel a guidance, one numbered point a method."""
    figure, panels = page(len(results))
    figure.set_size_inches(6.0 * len(results) + 3.6, 4.4)
    names: dict[str, int] = {}
    for axes, result in zip(panels, results, strict=True):
        for row in result["rows"]:
            if row["psnr"] is None:
                continue
            number = names.setdefault(row["name"], len(names) + 1)
            marker = "*" if row["name"].startswith("EC-Diff") else "o"
            at = (row["speedup"], row["psnr"])
            axes.scatter(*at, marker=marker, s=36, color=f"C{number % 10}")
            axes.annotate(str(number), at, xytext=(4, 3), textcoords="offset points", fontsize=7)
        axes.set(
            xlabel="speed-up over cloud-only",
            ylabel="PSNR against cloud-only, dB",
            title=f"guidance {result['guidance']:g}",
        )
    listing = "\n".join(f"{number}  {name}" for name, number in names.items())
    panels[-1].text(
        1.03, 1.0, listing, transform=panels[-1].transAxes, va="top", fontsize=7, linespacing=1.5
    )
    return figure


def lines(
    results: Sequence[Mapping[str, Any]],
    series: Mapping[str, Sequence[float]],
    xlabel: str,
    ylabel: str,
    **settings: Any,
) -> Any:
    """One panel a guidance; `series` names what is in each result and gives its x."""
    figure, panels = page(len(results))
    for axes, result in zip(panels, results, strict=True):
        for name, across in series.items():
            axes.plot(across, result["series"][name], label=name)
        axes.set(xlabel=xlabel, ylabel=ylabel, title=f"guidance {result['guidance']:g}", **settings)
        axes.legend(fontsize=8)
    return figure
