"""The whole report: every benchmark's tables and plots beside the paper's numbers, and a reading.

With the plan of an `ecdiff tune` folder, that search's own report goes along, into `tune/`.

`reading.md` in the same folder, where there is one, is taken into the report as it stands: what a
person makes of the figures. All else is computed.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ecdiff import pairs
from ecdiff.bench import findings, paper, suite, tuned
from ecdiff.bench.setup import Asked
from ecdiff.bench.sheet import Sheet

PAGE = "report.md"
READING = "reading.md"
TITLES = {
    "quality": "Quality against speed (Table 1)",
    "ablation": "Ablations (Table 2)",
    "robustness": "Errors the model corrects (Figure 1)",
    "noise": "How the noise changes (Figure 3)",
    "error": "Latent error (Figure 5)",
    "network": "Over a slow network",
}


def write(asked: Asked, folder: Path, say: Callable[[str], object]) -> Path:
    """Measure what is missing and write JSON, plots and `report.md` into `folder`.

    Raises InputError.
    """
    found = None
    if asked.plan is not None:
        found = tuned.copy(asked.plan, folder / "tune")
        if not tuned.extrapolates(asked.plan, pairs.resolve(asked.pair)):
            asked = replace(asked, plan=None)
    results = {}
    for name in suite.BENCHMARKS:
        results[name] = suite.measure(name, asked, say)
        suite.write(results[name], folder)
    reading = folder / READING
    text = page(results, reading.read_text() if reading.is_file() else None, found)
    unfinished = folder / f".{PAGE}.unfinished"
    try:
        unfinished.write_text(text)
        unfinished.replace(folder / PAGE)
    finally:
        unfinished.unlink(missing_ok=True)
    return folder / PAGE


def page(
    results: Mapping[str, dict[str, Any]],
    reading: str | None,
    found: Mapping[str, Any] | None = None,
) -> str:
    """The report as Markdown. `found` is the result of `ecdiff tune`, where it was run."""
    first = results["quality"]
    parts = [
        f"# Results of pair {first['pair']}",
        f"Made by `make report`: {first['steps']} steps, DDIM unless said otherwise, seeds from "
        f"{first['seed']}, {first['device']} ({os.cpu_count()} cores, torch "
        f"{torch.__version__}, {platform.system()}), {first['dtype']}, weights "
        f"`{first['revision']}`. PSNR, SSIM, LPIPS and detail are means against the cloud-only "
        "pictures of the same prompts and seeds. Times are sums of measured step times and of the "
        "handoff at 18.88 Mbit/s; over the slow network the link's part is the clock's. "
        "How each figure is measured: [metrics](../metrics.md).",
        f"The EC-Diff plan under test, one mark a step (C cloud, x extrapolated, E edge): "
        f"`{first['ec_diff']}`.",
        "## Plain reading",
    ]
    if reading:
        parts.append(reading.strip())
    if found:
        lines = "\n".join(f"- {line}" for line in tuned.findings(found))
        parts.append(f"The plan ([its search](tune/report.md)):\n\n{lines}")
    for name, result in results.items():
        lines = "\n".join(f"- {line}" for line in findings.of(result))
        parts.append(f"{TITLES[name]}:\n\n{lines}")
    for name, result in results.items():
        parts += _section(name, result)
    return "\n\n".join(parts) + "\n"


def _section(name: str, result: dict[str, Any]) -> list[str]:
    sheets = list(suite.BENCHMARKS[name].benchmark.sheets(result))
    if name == "quality":
        sheets.append(_table_1())
    if name == "ablation":
        sheets.append(_table_2())
    claim = result["claim"]
    return [
        f"## {TITLES[name]}",
        f"Claim: {claim} {result['prompts']} prompts; [{name}.json]({name}.json).",
        *(sheet.markdown() for sheet in sheets),
        f"![{TITLES[name]}]({name}.png)",
    ]


def _table_1() -> Sheet:
    return Sheet(
        "the paper's Table 1: its pairs, A800, guidance not stated",
        ["pair, method", "PSNR dB", "SSIM", "LPIPS", "s", "speed-up"],
        [
            [
                f"{row.pair}, {row.method}",
                f"{row.psnr:.2f}",
                f"{row.ssim:.3f}",
                f"{row.lpips:.3f}",
                f"{row.seconds:.2f}",
                f"{row.speedup:.2f}",
            ]
            for row in paper.TABLE_1
        ],
    )


def _table_2() -> Sheet:
    return Sheet(
        "the paper's Table 2",
        ["row", "PSNR dB", "LPIPS", "SSIM"],
        [
            [name, f"{psnr:.2f}", f"{lpips:.3f}", f"{ssim:.3f}"]
            for name, (psnr, lpips, ssim) in paper.TABLE_2.items()
        ],
    )
