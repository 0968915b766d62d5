"""`python -m ecdiff.bench NAME`: run one benchmark, or `report`: all of them, and write it down."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from ecdiff import console
from ecdiff.bench import latency, overhead, pictures, report, suite
from ecdiff.bench.setup import Asked
from ecdiff.tune import plots

app = typer.Typer(cls=console.OneLineErrors, add_completion=False, pretty_exceptions_enable=False)

OUT = {"report": Path("docs/results")}
STANDALONE: dict[str, Callable[..., None]] = {  # with settings of their own
    "latency": latency.run,
    "overhead": overhead.run,
    "pictures": pictures.run,
}


def command(name: str) -> Callable[..., None]:
    """The command of one benchmark, or of the report."""
    results = OUT.get(name)

    def run(
        pair: Annotated[str, typer.Option(help="A pair's name or folder.")] = "reference",
        prompts: Annotated[
            Path | None, typer.Option(help="Text, CSV, TSV or JSONL, also .gz; else own scenes.")
        ] = None,
        column: Annotated[
            str | None, typer.Option(help="Of --prompts: where the prompt is.")
        ] = None,
        limit: Annotated[
            int | None, typer.Option(min=1, help="How many prompts; else the benchmark's number.")
        ] = None,
        seed: Annotated[int, typer.Option(min=0, help="Prompt j has seed + j.")] = 0,
        guidance: Annotated[
            list[float] | None, typer.Option(help="May be given again. Default: 7.5, the pair's.")
        ] = None,
        steps: Annotated[int, typer.Option(help="T: steps in all, 10 or more.")] = 50,
        plan: Annotated[
            Path | None, typer.Option(help="A plan file of ecdiff tune: the EC-Diff under test.")
        ] = None,
        lpips: Annotated[
            Literal["alex", "vgg"] | None,
            typer.Option(help="Insist on LPIPS. Default: alex, where its weights are."),
        ] = None,
        run: Annotated[
            Path, typer.Option(help="Folder of what is measured; the same one goes on.")
        ] = Path("bench"),
        out: Annotated[
            Path | None, typer.Option(help="Folder of table, JSON and plot. Default: --run's.")
        ] = results,
        device: Annotated[str | None, typer.Option(help="cpu, cuda, ...")] = None,
        dtype: Annotated[str | None, typer.Option(help="float32, float16 or bfloat16.")] = None,
    ) -> None:
        plots.check()
        asked = Asked(
            pair, prompts, column, limit, seed, tuple(guidance or ()), steps, plan, lpips, run,
            device, dtype,
        )  # fmt: skip
        folder = out or run
        with console.progress(True) as live:
            if name == "report":
                print(report.write(asked, folder, live.say))
                return
            result = suite.measure(name, asked, live.say)
        suite.write(result, folder)
        for sheet in suite.BENCHMARKS[name].benchmark.sheets(result):
            sheet.show()
        print(json.dumps(result))

    return run


for each, standalone in STANDALONE.items():
    app.command(each)(standalone)
for each, entry in suite.BENCHMARKS.items():
    app.command(each, help=entry.claim)(command(each))
app.command("report", help="Every benchmark, as a Markdown report with tables, plots and JSON.")(
    command("report")
)

if __name__ == "__main__":
    app()
