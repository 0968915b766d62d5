"""`--compare`: the same picture by every method, side by side, measured against cloud-only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont

from ecdiff.clips import contact_sheet
from ecdiff.errors import InputError
from ecdiff.generation import Ask, OnStep, run

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor

    from ecdiff.edge.pipeline import EdgeCloudPipeline, Receipt, Result

TITLES = {"cloud": "cloud only", "ec-diff": "EC-Diff", "hybrid-sd": "HybridSD", "edge": "edge only"}
SMALLEST = 16  # pixels: SSIM looks through a window of 11
CELL = 256  # pixels: a smaller picture is enlarged to at least this width


@dataclass(frozen=True)
class Compared:
    """One method's figures. `psnr` (dB) and `ssim` are means over the pictures, or all frames."""

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


def sheet_path(out: Path | None) -> Path:
    """Where the comparison goes, beside the pictures or clips."""
    named = out or Path("ecdiff")
    if not named.name or named.name == "..":  # a folder that has no name here
        named = named.resolve()
    return named.with_name(f"{named.stem}-compare.png")


def run_all(pipe: EdgeCloudPipeline, ask: Ask, on_step: OnStep) -> dict[str, Result]:
    """The asked method and the three others, by name, after a run that takes first-call costs."""
    warm_up = Ask(ask.pair, ask.request, "hybrid-sd", 2, {"handoff_step": 1}, ask.fps)
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
            float(psnr(_frames(result.images), _frames(whole.images)).mean()),
            float(ssim(_frames(result.images), _frames(whole.images)).mean()),
        )
        for method, result in results.items()
    }


def _frames(images: Tensor) -> Tensor:
    """[B, 3, H, W], the frames of clips [B, F, 3, H, W] one after another."""
    return images.flatten(0, 1) if images.ndim == 5 else images


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


def sheet(compared: Mapping[str, Compared], drawn: Mapping[str, Sequence[Any]]) -> Image.Image:
    """One labelled picture. Pictures: a column a method, a row a picture; clips: a row a method
    and clip, with some of its frames."""
    if isinstance(next(iter(drawn.values()))[0], Image.Image):
        cells = {method: [_enlarged(picture) for picture in drawn[method]] for method in drawn}
        return _page(compared, cells, down=False)
    return _page(compared, {m: [contact_sheet(c) for c in drawn[m]] for m in drawn}, down=True)


def _enlarged(picture: Image.Image) -> Image.Image:
    scale = ceil(CELL / picture.width)
    size = (picture.width * scale, picture.height * scale)
    return picture.resize(size, Image.Resampling.LANCZOS)


def _page(
    compared: Mapping[str, Compared], cells: Mapping[str, Sequence[Image.Image]], down: bool
) -> Image.Image:
    """The methods from left to right, or `down` the page; each a label over its cells."""
    first = next(iter(cells.values()))
    width, height = first[0].size
    text = max(16, min(width, 512) // 16)
    gap, head = text, round(text * 4.2)
    block = (width + gap, head + (height + gap) * len(first))
    across, below = (1, len(cells)) if down else (len(cells), 1)
    page = Image.new("RGB", (gap + block[0] * across, gap + block[1] * below), "white")
    draw = ImageDraw.Draw(page)
    title, small = ImageFont.load_default(round(text * 1.4)), ImageFont.load_default(text)
    for i, (method, column) in enumerate(cells.items()):
        x, y = gap + block[0] * (0 if down else i), block[1] * (i if down else 0)
        c = compared[method]
        close = "the reference" if method == "cloud" else f"PSNR {_decibels(c)}"
        draw.text((x, y + gap // 2), TITLES[method], "black", title)
        draw.text(
            (x, y + gap // 2 + text * 1.8),
            f"{c.receipt.seconds.total:.2f} s, {c.speedup:.2f}x\n{close}",
            "#444444",
            small,
        )
        for j, cell in enumerate(column):
            page.paste(cell, (x, y + gap + head + j * (height + gap)))
    return page
