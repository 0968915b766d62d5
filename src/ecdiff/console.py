"""What the terminal shows: one line for an error, a live line for progress, the receipt."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import typer
from typer.core import TyperGroup

from ecdiff.errors import InputError, PlanError, RefusedError

if TYPE_CHECKING:
    from ecdiff.edge.pipeline import Receipt
    from ecdiff.generation import Ask


class OneLineErrors(TyperGroup):
    """Every failure becomes one line on stderr and an exit code, never a traceback."""

    def main(self, *args: Any, **options: Any) -> Any:
        try:
            status = super().main(*args, **(options | {"standalone_mode": False}))
        except Exception as error:
            print(f"ecdiff: error: {one_line(error)}", file=sys.stderr)
            status = exit_code(error)
        sys.exit(status or 0)


def one_line(error: Exception) -> str:
    from ecdiff.errors import EcdiffError

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

    def step(self, ask: Ask, step: int, site: str, evaluated: bool) -> None:
        """A step is finished."""
        ...


class Silence:
    def say(self, text: str) -> None: ...

    def step(self, ask: Ask, step: int, site: str, evaluated: bool) -> None: ...


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

        def step(self, ask: Ask, step: int, site: str, evaluated: bool) -> None:
            how = "evaluated" if evaluated else "extrapolated"
            text = f"{ask.method:<9}  {site:<5}  {how:<12}  step {step + 1:>2} of {ask.steps}"
            self._bar.update(self._task, description=text, completed=step + 1, total=ask.steps)

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=None))
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        yield Live(bar, bar.add_task("", total=None))


def receipt_lines(receipt: Receipt) -> list[str]:
    """What was done and what it took, to be read by a person."""
    request, seconds, counts = receipt.request, receipt.seconds, receipt.plan.counts()
    pictures = len(request.seeds)
    seeds = f"{request.seeds[0]}" + (f"..{request.seeds[-1]}" if pictures > 1 else "")
    parts = [
        f"{getattr(seconds, name):.2f} {name}"
        for name in ("cloud", "transfer", "edge", "encode", "decode")
    ]
    return [
        f"{receipt.method} on pair {receipt.pair}, {request.width}x{request.height}, "
        f"seed {seeds}, guidance {request.guidance:g}, {request.scheduler}",
        f"plan     {receipt.plan}",
        f"steps    {counts.cloud_evaluated} evaluated in the cloud, "
        f"{counts.edge_evaluated} at the edge, {counts.extrapolated} extrapolated",
        f"seconds  {seconds.total:.2f} ({', '.join(parts)})",
        f"bytes    {receipt.bytes.sent:,} sent, {receipt.bytes.received:,} received",
    ]
