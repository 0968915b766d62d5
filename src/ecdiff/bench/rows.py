"""The figures of several ways to draw the same prompts, each against the cloud-only picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil, isfinite
from typing import Any

from torch import Tensor

from ecdiff.bench import deepcache
from ecdiff.bench.setup import Setup
from ecdiff.bench.sheet import Sheet, shown
from ecdiff.drawer import Drawer
from ecdiff.plan import Plan, cloud_only
from ecdiff.quality import detail, lpips, psnr, ssim
from ecdiff.quiet import quiet_transformers
from ecdiff.request import Request

DIGITS = {"psnr": 2, "ssim": 4, "lpips": 4, "detail": 3, "adherence": 3}


@dataclass(frozen=True)
class Row:
    """One way to draw a picture, held against the cloud-only picture of the same seed."""

    name: str
    plan: Plan
    scheduler: str = "ddim"
    against: str = "ddim"  # the cloud-only picture's scheduler
    deepcache: bool = False  # the cloud's calls are whole and shallow by turns


def measure_rows(
    setup: Setup, rows: Sequence[Row], guidance: float, say: Callable[[str], object]
) -> list[dict[str, Any]]:
    """The mean figures of each row over the prompts."""
    found: list[list[dict[str, float | None]]] = [[] for _ in rows]
    for part in setup.parts(guidance):
        batch = _Batch(setup, part, rows)
        for row, figures in zip(rows, found, strict=True):
            say(f"guidance {guidance:g}, seeds from {part[0].seeds[0]}: {row.name}")
            figures += batch.figures(row)
    return [
        _summary(setup, row, figures, guidance) for row, figures in zip(rows, found, strict=True)
    ]


class _Batch:
    """One network batch of prompts under every row; draws only what is not known yet."""

    def __init__(self, setup: Setup, requests: Sequence[Request], rows: Sequence[Row]) -> None:
        self._setup, self._requests, self._rows = setup, requests, rows
        self._whole = cloud_only(setup.steps)
        self._drawers: dict[str, Drawer] = {}
        self._cloud: dict[str, Tensor] = {}  # cloud-only pictures by scheduler

    def figures(self, row: Row) -> list[dict[str, float | None]]:
        more = {
            "plan": row.plan.to_json(),
            "against": [row.against, self._setup.steps],
            "lpips": self._setup.lpips,
        } | ({"deepcache": deepcache.INTERVAL} if row.deepcache else {})
        own = [replace(request, scheduler=row.scheduler) for request in self._requests]
        return self._setup.keep("figures", own, more, partial(self._judge, row))

    def _judge(self, row: Row) -> list[dict[str, float | None]]:
        if row.deepcache:
            pictures = deepcache.draw(self._setup.families, self._requests, row.plan.steps)
        else:
            pictures = self._draw(row.scheduler, row.plan)
        if row.against not in self._cloud:
            self._cloud[row.against] = self._draw(row.against, self._whole)
        cloud = self._cloud[row.against]
        return judge(self._setup, pictures, cloud, [r.prompt for r in self._requests])

    def _draw(self, scheduler: str, plan: Plan) -> Tensor:
        if scheduler not in self._drawers:
            own = [replace(request, scheduler=scheduler) for request in self._requests]
            plans = [row.plan for row in self._rows if row.scheduler == scheduler]
            self._drawers[scheduler] = Drawer(self._setup.families, own, [self._whole, *plans])
        return self._drawers[scheduler].pictures(plan)


def judge(
    setup: Setup, pictures: Tensor, cloud: Tensor, prompts: Sequence[str]
) -> list[dict[str, float | None]]:
    """Each picture's figures against its cloud-only picture; PSNR is None where they are equal."""
    nothing: list[float | None] = [None] * len(prompts)
    columns: dict[str, Sequence[float | None]] = {
        "psnr": [v if isfinite(v) else None for v in psnr(pictures, cloud).tolist()],
        "ssim": ssim(pictures, cloud).tolist(),
        "lpips": lpips(pictures, cloud, setup.lpips).tolist() if setup.lpips else nothing,
        "detail": detail(pictures, cloud).tolist(),
        "adherence": nothing,
    }
    if setup.pair.name == "reference":
        with quiet_transformers():
            from ecdiff.bench.adherence import adherence

        columns["adherence"] = adherence(pictures, prompts)
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def _summary(
    setup: Setup, row: Row, figures: Sequence[Mapping[str, float | None]], guidance: float
) -> dict[str, Any]:
    counts, times = row.plan.counts(), setup.times(guidance)
    whole = setup.seconds(cloud_only(setup.steps), guidance)
    evaluated, saved = counts.cloud_evaluated, 0.0
    if row.deepcache:
        evaluated = ceil(counts.cloud_evaluated / deepcache.INTERVAL)
        share = shallow_share(setup, guidance) or 1.0
        saved = (counts.cloud_evaluated - evaluated) * (1 - share) * times["cloud"]
    in_cloud = counts.cloud_evaluated * times["cloud"] - saved
    in_cloud += (counts.extrapolated - counts.edge_extrapolated) * times["extrapolated"]
    seconds = setup.seconds(row.plan, guidance) - saved
    means = {name: mean([f[name] for f in figures], digits) for name, digits in DIGITS.items()}
    return {
        "name": row.name,
        **means,
        "cloud_evaluated": evaluated,
        "edge_evaluated": counts.edge_evaluated,
        "extrapolated": counts.extrapolated,
        "cloud_seconds": round(in_cloud, 4),
        "seconds": round(seconds, 4),
        "speedup": round(whole / seconds, 3),
        "scheduler": row.scheduler,
        "plan": str(row.plan),
    }


def shallow_share(setup: Setup, guidance: float) -> float | None:
    """Of DeepCache's shallow calls on this machine; None where the network does not allow them."""
    first = setup.requests(guidance)[:1]
    return setup.keep(
        "shallow share", first, {}, lambda: deepcache.shallow_share(setup.families, first[0])
    )


def mean(values: Sequence[float | None], digits: int = 4) -> float | None:
    """Of those that are there; None where none is."""
    there = [value for value in values if value is not None]
    return round(sum(there) / len(there), digits) if there else None


def sheet(title: str, rows: Sequence[Mapping[str, Any]], first: str = "method") -> Sheet:
    """The figures as a table, without the columns that no row has."""
    columns = {
        "PSNR dB": ("psnr", 2), "SSIM": ("ssim", 3), "LPIPS": ("lpips", 3), "detail": ("detail", 2),
        "adherence": ("adherence", 2), "cloud steps": ("cloud_evaluated", 0),
        "edge steps": ("edge_evaluated", 0), "cloud s": ("cloud_seconds", 2), "s": ("seconds", 2),
        "speed-up": ("speedup", 2),
    }  # fmt: skip
    there = {h: c for h, c in columns.items() if any(row[c[0]] is not None for row in rows)}
    cells = [
        [row["name"], *(shown(row[name], digits) for name, digits in there.values())]
        for row in rows
    ]
    return Sheet(title, [first, *there], cells)
