"""A table of figures: for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

WIDTH = 140  # characters: narrower terminals wrap lines


def shown(value: float | int | str | None, digits: int = 2) -> str:
    """`value` as a cell; nothing for None."""
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:.{digits}f}"


@dataclass(frozen=True)
class Sheet:
    """The first column is words, the others are numbers, already written out."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]

    def show(self) -> None:
        """Print it, as wide as it must be."""
        table = Table(title=self.title)
        for i, heading in enumerate(self.headings):
            table.add_column(heading, justify="right" if i else "left", no_wrap=True)
        for row in self.rows:
            table.add_row(*row)
        here = Console()
        here.width = max(here.width, WIDTH)
        here.print(table)

    def markdown(self) -> str:
        rule = ["---", *["---:"] * (len(self.headings) - 1)]
        lines = [self.headings, rule, *self.rows]
        return f"**{self.title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)
