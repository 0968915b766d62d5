"""What the terminal shows: one line for an error, a live line for progress, tables."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import typer
from typer.core import TyperGroup

from ecdiff.errors import EcdiffError, InputError, PlanError, RefusedError

if TYPE_CHECKING:
    from rich.table import Table


class OneLineErrors(TyperGroup):
    """Every failure becomes one line on stderr and an exit code, never a traceback."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
        words = sys.argv[1:] if args is None else args
        try:
            options["standalone_mode"] = False
            status = super().main(words or ["--help"], *rest, **options)
        except Exception as error:
            print(f"ecdiff: error: {one_line(error)}", file=sys.stderr)
            status = exit_code(error)
        sys.exit(status or 0)


def one_line(error: Exception) -> str:
    if isinstance(error, typer.TyperException):
        text = error.format_message()
    elif isinstance(error, EcdiffError):
        text = str(error)
    else:
        text = f"{type(error).__name__}: {error}"
    return " ".join(text.split())


def exit_code(error: Exception) -> int:
    """2 for what the caller got wrong, also when it is the server who says so; else 1."""
    if isinstance(error, typer.TyperException):
        return error.exit_code
    if isinstance(error, RefusedError):
        return 2 if error.remote_code in (InputError.code, PlanError.code) else 1
    return 2 if isinstance(error, InputError) else 1


class Progress(Protocol):
    def say(self, text: str) -> None:
        """What is being done while there is no step."""
        ...

    def step(self, method: str, step: int, steps: int, site: str, evaluated: bool) -> None:
        """Step `step`, counted from 0, of `steps` is finished."""
        ...


class Silence:
    def say(self, text: str) -> None: ...

    def step(self, method: str, step: int, steps: int, site: str, evaluated: bool) -> None: ...


@contextmanager
def progress(wanted: bool) -> Iterator[Progress]:
    """A live line on stderr, gone when done; nothing unless stderr is a terminal."""
    if not (wanted and sys.stderr.isatty()):
        yield Silence()
        return
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn
    from rich.progress import Progress as Bar

    class Live:
        def __init__(self, bar: Bar, task: TaskID) -> None:
            self._bar, self._task = bar, task

        def say(self, text: str) -> None:
            self._bar.update(self._task, description=text, total=None)

        def step(self, method: str, step: int, steps: int, site: str, evaluated: bool) -> None:
            how = "evaluated" if evaluated else "extrapolated"
            text = f"{method:<9}  {site:<5}  {how:<12}  step {step + 1:>2} of {steps}"
            self._bar.update(self._task, description=text, completed=step + 1, total=steps)

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=None))
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        yield Live(bar, bar.add_task("", total=None))


def show(table: Table) -> None:
    from rich.console import Console

    Console().print(table)


def pairs_table(entries: Sequence[Mapping[str, Any]]) -> Table:
    from rich.table import Column, Table

    columns = {  # and the longest word in each: nothing is cut on 80 columns
        "pair": 16,
        "size": 9,
        "guidance": 8,
        "plan (p, k, alpha, s of T)": 8,
        "VRAM, GB cloud / edge": 8,
        "licence": 12,
        "fingerprint": 12,
    }
    sized = [Column(head, width=width) for head, width in columns.items()]
    out = Table(*sized, box=None, padding=(0, 1, 0, 0))
    for entry in entries:
        plan = entry["defaults"]
        out.add_row(
            entry["name"],
            f"{entry['width']}x{entry['height']}"
            + (f", {entry['frames']} frames" if entry["frames"] else ""),
            f"{entry['guidance']:g}",
            f"{plan['warmup']}, {plan['skip']}, {plan['smoothing']:g}, "
            f"{plan['handoff_step']} of {plan['steps']}",
            vram(entry["vram_gb"]),
            entry["licence"],
            entry["fingerprint"][:12] if entry["fingerprint"] else "not downloaded",
        )
    return out


def vram(gigabytes: Mapping[str, float]) -> str:
    """An estimate for each site; a dash where there is none."""
    return " / ".join(f"{gigabytes[s]:g}" if s in gigabytes else "-" for s in ("cloud", "edge"))
