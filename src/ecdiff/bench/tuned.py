"""What `ecdiff tune` found, for the report: its folder's result in sentences, and its files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ecdiff import planfile
from ecdiff.errors import InputError
from ecdiff.pairs import Pair

KEPT = ("plan.json", "step-times.json", "report.json", "report.md")


def extrapolates(path: Path, pair: Pair) -> bool:
    """Whether the plan is EC-Diff's; HybridSD's is shipped where none keeps the quality floor.

    Raises InputError.
    """
    return planfile.read(path, pair).parameters.skip > 0


def copy(plan: Path, folder: Path) -> Mapping[str, Any]:
    """Copy the search's report, figures and plan from beside `plan` into `folder`; its result.

    Raises InputError when the plan's folder is not one that `ecdiff tune` wrote.
    """
    source = plan.parent
    if not plan.is_file():
        raise InputError(f"there is no plan file {plan}: run ecdiff tune first")
    try:
        found: dict[str, Any] = json.loads((source / "report.json").read_text())
        folder.mkdir(parents=True, exist_ok=True)
        for path in (*(source / name for name in KEPT), *source.glob("*.png")):
            shutil.copyfile(path, folder / path.name)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{source} is not what ecdiff tune wrote ({error}): pass the plan in its folder"
        ) from error
    return found


def findings(found: Mapping[str, Any]) -> Iterator[str]:
    """What the search says of Eq. 12."""
    best, printed, methods = found["best"], found["printed"], found["methods"]
    whole = methods["cloud"]["seconds"]
    on = f"{found['prompts']} prompts with seeds from {found['seed']}, guidance "
    on += f"{found['guidance']:g}"
    if best is None:
        yield (
            f"On {on}, **no** plan of EC-Diff keeps the quality floor of SSIM "
            f"{found['floor']:.4f}: the plan file holds HybridSD's, and what follows tests the "
            "pair's default instead."
        )
    else:
        yield (
            f"On {on}, the plan is {_point(found, best)}: SSIM {best['ssim']:.4f} over the floor "
            f"of {found['floor']:.4f}, {whole / best['seconds']:.2f}x, Eq. 12 {best['value']:.4f}, "
            f"found with {found['evaluations']} evaluations."
        )
    yield (
        f"Eq. 12 as printed has its optimum at {_point(found, printed)}: "
        f"{printed['value']:.4f}, SSIM {printed['ssim']:.4f}, {whole / printed['seconds']:.2f}x."
    )


def _point(found: Mapping[str, Any], point: Mapping[str, Any]) -> str:
    return (
        f"p{found['warmup']} k{point['skip']} alpha {point['smoothing']:g} s{point['handoff_step']}"
    )
