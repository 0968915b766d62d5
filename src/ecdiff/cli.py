"""The `ecdiff` command. Thin: parse, call, print. Imports no torch until a model is needed."""

from __future__ import annotations

import json
import os
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ecdiff import __version__, console

app = typer.Typer(
    name="ecdiff",
    cls=console.OneLineErrors,
    help="A big diffusion model in the cloud plans the picture, a small one here finishes it.",
    pretty_exceptions_enable=False,
    add_completion=False,
)

PairName = Annotated[
    str, typer.Option("--pair", help="A pair that `ecdiff pairs` lists, or a pair's folder.")
]
Cloud = Annotated[str | None, typer.Option("--cloud", metavar="URL", help="ws://HOST:PORT")]
Token = Annotated[
    str | None, typer.Option("--token", envvar="ECDIFF_TOKEN", help="The server's bearer token.")
]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps, ...")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="float32, float16 or bfloat16.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ecdiff {__version__}")
        raise typer.Exit


@app.callback()
def ecdiff(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    pair: PairName = "reference",
    cloud: Annotated[
        str | None,
        typer.Option(metavar="URL", help="A server, ws://HOST:PORT. Default: start one here."),
    ] = None,
    method: Annotated[str, typer.Option(help="ec-diff, hybrid-sd, cloud or edge.")] = "ec-diff",
    steps: Annotated[int, typer.Option(help="T: steps in all.")] = 50,
    warmup: Annotated[int | None, typer.Option(help="p: steps evaluated at first.")] = None,
    skip: Annotated[int | None, typer.Option(help="k: steps extrapolated at a time.")] = None,
    smoothing: Annotated[float | None, typer.Option(help="alpha: damps the gradient.")] = None,
    handoff_step: Annotated[int | None, typer.Option(help="s: steps done in the cloud.")] = None,
    scheduler: Annotated[str, typer.Option(help="ddim, euler or dpm++.")] = "ddim",
    guidance: Annotated[float | None, typer.Option(help="1 turns it off.")] = None,
    negative_prompt: Annotated[str, typer.Option(help="What not to draw.")] = "",
    size: Annotated[str | None, typer.Option(metavar="WxH", help="In pixels.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the first picture. Default: any.")] = None,
    count: Annotated[int, typer.Option(min=1, help="How many pictures.")] = 1,
    out: Annotated[Path, typer.Option(help="The picture's file.")] = Path("ecdiff.png"),
    compare: Annotated[
        bool, typer.Option("--compare", help="Run the other methods too, all side by side.")
    ] = False,
    device: Device = None,
    dtype: Dtype = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Generate a picture: the cloud begins it, this machine finishes it.

    Plan, guidance and size are the pair's where they are not set.
    """
    from ecdiff import generation, pairs

    entry = pairs.resolve(pair)
    asked = generation.ask(
        entry,
        prompt,
        method=method,
        steps=steps,
        plan={
            "warmup": warmup,
            "skip": skip,
            "smoothing": smoothing,
            "handoff_step": handoff_step,
        },
        scheduler=scheduler,
        guidance=guidance,
        negative_prompt=negative_prompt,
        size=size,
        seed=seed,
        count=count,
    )
    place = generation.Place(cloud, token, device, dtype)
    _generate(pair, asked, place, out, compare, as_json)
