"""`--compare`: the same picture by every method, side by side, measured against cloud-only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import ceil, isfinite
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont

from ecdiff.errors import InputError
from ecdiff.generation import Ask, OnStep, run

if TYPE_CHECKING:
    from rich.table import Table

    from ecdiff.edge.pipeline import EdgeCloudPipeline, Receipt, Result

TITLES = {"cloud": "cloud only", "ec-diff": "EC-Diff", "hybrid-sd": "HybridSD", "edge": "edge only"}
SMALLEST = 16  # pixels: SSIM looks through a window of 11
CELL = 256  # pixels: a smaller picture is enlarged to at least this width


@dataclass(frozen=True)
class Compared:
    """One method's figures. `psnr` (dB) and `ssim` are means over the pictures."""

    receipt: Receipt
    speedup: float
    psnr: float
    ssim: float

    def to_json(self) -> dict[str, Any]:
        receipt = self.receipt
        return {
            "seconds": round(receipt.seconds.total, 4),
            "speedup": round(self.speedup, 3),
            "plan": str(receipt.plan),
            "counts": asdict(receipt.plan.counts()),
            "bytes": asdict(receipt.bytes),
            "psnr": round(self.psnr, 2) if isfinite(self.psnr) else None,
            "ssim": round(self.ssim, 4),
        }


def check(ask: Ask) -> None:
    """Raises InputError for pictures too small to compare."""
    if min(ask.request.width, ask.request.height) < SMALLEST:
        raise InputError(f"--compare needs pictures of at least {SMALLEST}x{SMALLEST}")


def run_all(pipe: EdgeCloudPipeline, ask: Ask, on_step: OnStep) -> dict[str, Result]:
    """The asked method and the three others, by name, after a run that takes first-call costs."""
    warm_up = Ask(ask.pair, ask.request, "hybrid-sd", 2, {"handoff_step": 1})
    run(pipe, warm_up, lambda *step: None)
    methods = [method for method in TITLES if method in ("cloud", "hybrid-sd", "edge", ask.method)]
    return {method: run(pipe, ask.by(method), on_step) for method in methods}


def measure(results: Mapping[str, Result]) -> dict[str, Compared]:
    """Each method against `results["cloud"]`."""
    from ecdiff.quality import psnr, ssim

    whole = results["cloud"]
    return {
        method: Compared(
            result.receipt,
            whole.receipt.seconds.total / result.receipt.seconds.total,
            float(psnr(result.images, whole.images).mean()),
            float(ssim(result.images, whole.images).mean()),
        )
        for method, result in results.items()
    }


def table(compared: Mapping[str, Compared]) -> Table:
    from rich.table import Table

    columns = ("seconds", "speed-up", "evaluated\ncloud + edge", "bytes", "PSNR", "SSIM")
    out = Table("method")
    for column in columns:
        out.add_column(column, justify="right")
    for method, c in compared.items():
        counts, size = c.receipt.plan.counts(), c.receipt.bytes
        out.add_row(
            TITLES[method],
            f"{c.receipt.seconds.total:.2f}",
            f"{c.speedup:.2f}x",
            f"{counts.cloud_evaluated} + {counts.edge_evaluated}",
            f"{size.sent + size.received:,}",
            _decibels(c),
            f"{c.ssim:.3f}",
        )
    return out


def _decibels(c: Compared) -> str:
    return f"{c.psnr:.1f} dB" if isfinite(c.psnr) else "equal"


def sheet(
    compared: Mapping[str, Compared], pictures: Mapping[str, list[Image.Image]]
) -> Image.Image:
    """One labelled picture: a column a method, a row a picture."""
    first = next(iter(pictures.values()))
    scale = ceil(CELL / first[0].width)
    width, height = first[0].width * scale, first[0].height * scale
    text, gap = max(16, width // 16), width // 16
    head = round(text * 4.2)
    page = Image.new(
        "RGB",
        (gap + (width + gap) * len(pictures), gap + head + (height + gap) * len(first)),
        "white",
    )
    draw = ImageDraw.Draw(page)
    title, small = ImageFont.load_default(round(text * 1.4)), ImageFont.load_default(text)
    for i, (method, column) in enumerate(pictures.items()):
        x = gap + i * (width + gap)
        c = compared[method]
        close = "the reference" if method == "cloud" else f"PSNR {_decibels(c)}"
        draw.text((x, gap // 2), TITLES[method], "black", title)
        draw.text(
            (x, gap // 2 + text * 1.8),
            f"{c.receipt.seconds.total:.2f} s, {c.speedup:.2f}x\n{close}",
            "#444444",
            small,
        )
        for j, picture in enumerate(column):
            enlarged = picture.resize((width, height), Image.Resampling.LANCZOS)
            page.paste(enlarged, (x, gap + head + j * (height + gap)))
    return page
