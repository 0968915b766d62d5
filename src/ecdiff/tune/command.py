"""`ecdiff tune` in the command line's words: prompts, folder, files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecdiff import pairs
from ecdiff.errors import InputError
from ecdiff.measure import read_step_times
from ecdiff.prompts import read_prompts
from ecdiff.tune import plots, report
from ecdiff.tune.run import Outcome, Settings, tune

OWN_PROMPTS_FROM = 53  # of each list of held-out scenes; the benchmarks take the first ones


@dataclass(frozen=True)
class Wanted:
    """Which prompts."""

    file: Path | None
    column: str | None
    limit: int


@dataclass(frozen=True)
class Written:
    """A search's outcome and where it was written."""

    outcome: Outcome
    files: dict[str, Path]

    def to_json(self) -> dict[str, Any]:
        files = {name: str(path) for name, path in self.files.items()}
        return self.outcome.plan_file.to_json() | {
            "evaluations": self.outcome.evaluations,
            "files": files,
        }

    def __str__(self) -> str:
        file, o = self.outcome.plan_file, self.outcome
        p, tuned = file.parameters, file.tuned
        kept = "" if o.best else "\nno plan of EC-Diff keeps the quality floor: this is HybridSD"
        return (
            f"p {p.warmup}, k {p.skip}, alpha {p.smoothing:g}, s {p.handoff_step} of {p.steps}: "
            f"SSIM {tuned['ssim']:.4f} (floor {tuned['quality_floor']:.4f}), speed-up "
            f"{tuned['speedup']:.2f}, objective {tuned['objective']:.4f}, "
            f"{o.evaluations} evaluations{kept}\n{self.files['plan.json']}\n"
            f"{self.files['report.md']}"
        )


def run(
    pair: str,
    wanted: Wanted,
    *,
    out: Path,
    times: Path | None,
    device: str | None,
    dtype: str | None,
    say: Callable[[str], object],
    **settings: Any,
) -> Written:
    """Check everything that can be checked, then search. Raises InputError, PairError."""
    plots.check()
    chosen = pairs.resolve(pair)
    pairs.check_pictures(chosen)
    if wanted.file is not None:
        prompts = read_prompts(wanted.file, wanted.limit, wanted.column)
    elif wanted.column is not None:
        raise InputError("--column names a column of --prompts: pass that file too")
    elif chosen.name == "reference":
        prompts = own_prompts(wanted.limit)
    else:
        raise InputError(f"pair {chosen.name} has no prompts of its own: pass --prompts FILE")
    recorded = None if times is None else read_step_times(times)
    asked = Settings(chosen, tuple(prompts), times=recorded, **settings)
    _make_folder(out)
    outcome = tune(asked, out, device, dtype, say)
    say("writing the report")
    return Written(outcome, report.write(outcome, out))


def own_prompts(limit: int) -> list[str]:
    """The reference pair's: held-out scenes, half of them with two things, which share no
    (object, colour, background) with the first 53 of each list."""
    from ecdiff.reference.scenes import caption, held_out_scenes

    def scenes(count: int, things: int) -> list[str]:
        every = held_out_scenes(OWN_PROMPTS_FROM + count, things)
        return [caption(scene) for scene in every[OWN_PROMPTS_FROM:]]

    return scenes(limit - limit // 2, 1) + scenes(limit // 2, 2)


def _make_folder(out: Path) -> None:
    """Raises InputError when nothing can be written there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".unfinished"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"cannot write to {out}: {error.strerror}, choose another --out"
        ) from error
