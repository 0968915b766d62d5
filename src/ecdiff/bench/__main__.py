"""`python -m ecdiff.bench NAME`: run one benchmark."""

from __future__ import annotations

import typer

from ecdiff import console
from ecdiff.bench import latency, overhead, quality

app = typer.Typer(cls=console.OneLineErrors, add_completion=False, pretty_exceptions_enable=False)
app.command("latency")(latency.run)
app.command("overhead")(overhead.run)
app.command("quality")(quality.run)

if __name__ == "__main__":
    app()
