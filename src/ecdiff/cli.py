"""The `ecdiff` command. Thin: parse, call, print. Imports no torch until a model is needed."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ecdiff import __version__, console
from ecdiff.sources import Memory

if TYPE_CHECKING:
    from ecdiff.edge.pipeline import Receipt
    from ecdiff.generation import Ask, Place

app = typer.Typer(
    name="ecdiff",
    cls=console.OneLineErrors,
    help="A big diffusion model in the cloud plans the picture, a small one here finishes it.",
    pretty_exceptions_enable=False,
    add_completion=False,
)

Prompt = Annotated[str, typer.Argument(metavar="PROMPT", help="What to draw.")]
PairName = Annotated[
    str, typer.Option("--pair", help="A name `ecdiff pairs` lists, a folder or a .toml file.")
]
Cloud = Annotated[str | None, typer.Option(metavar="URL", help="A server's ws://HOST:PORT.")]
Method = Annotated[str, typer.Option(help="ec-diff, hybrid-sd, cloud or edge.")]
Steps = Annotated[int, typer.Option(help="T: steps in all.")]
Warmup = Annotated[int | None, typer.Option(help="p: steps evaluated at first.")]
Skip = Annotated[int | None, typer.Option(help="k: steps extrapolated at a time.")]
Smoothing = Annotated[float | None, typer.Option(help="alpha: damps the noise gradient.")]
HandoffStep = Annotated[int | None, typer.Option(help="s: steps done in the cloud.")]
Scheduler = Annotated[str, typer.Option(help="ddim, euler, dpm++, lcm or dpm.")]
Handoff = Annotated[
    str, typer.Option(help="To a model of another scale: renoise, rescale or paper.")
]
Guidance = Annotated[float | None, typer.Option(help="1 turns it off.")]
NegativePrompt = Annotated[str, typer.Option(help="What not to draw.")]
Size = Annotated[str | None, typer.Option(metavar="WxH", help="In pixels.")]
Seed = Annotated[int | None, typer.Option(help="Of the first picture; without it any.")]
Count = Annotated[int, typer.Option(min=1, help="How many pictures.")]
Frames = Annotated[int | None, typer.Option(help="Of a clip, for a pair that draws clips.")]
Fps = Annotated[float | None, typer.Option(help="Frames a second of the clip's file.")]
Out = Annotated[
    Path | None,
    typer.Option(
        help="A picture's file (.png, .jpg, .webp). A clip's: .mp4 or .gif, a folder (a name "
        "without a suffix) for its frames as PNG, a picture's name for a contact sheet. "
        "NAME-0.png, ... where they are many.",
        show_default="ecdiff.png or ecdiff.mp4",
    ),
]
Compare = Annotated[bool, typer.Option("--compare", help="All methods side by side: NAME-compare.")]
PlanPath = Annotated[Path | None, typer.Option("--plan", help="A plan file of ecdiff tune.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps, ...")]
Dtype = Annotated[str | None, typer.Option(help="float32, float16 or bfloat16.")]
Offload = Annotated[
    bool, typer.Option("--offload", help="Each part on the GPU only while it works: less memory.")
]
VaeTiling = Annotated[bool, typer.Option("--vae-tiling", help="Decode tile by tile: less memory.")]
VaeSlicing = Annotated[bool, typer.Option("--vae-slicing", help="Decode one by one: less memory.")]
Token = Annotated[str | None, typer.Option(envvar="ECDIFF_TOKEN", help="The server's token.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, nothing else.")]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ecdiff {__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
]


@app.callback()
def ecdiff(version: Version = False) -> None:
    """Options before the command."""


@app.command()
def generate(
    prompt: Prompt,
    pair: PairName = "reference",
    cloud: Cloud = None,
    method: Method = "ec-diff",
    steps: Steps = 50,
    warmup: Warmup = None,
    skip: Skip = None,
    smoothing: Smoothing = None,
    handoff_step: HandoffStep = None,
    plan: PlanPath = None,
    scheduler: Scheduler = "ddim",
    handoff: Handoff = "renoise",
    guidance: Guidance = None,
    negative_prompt: NegativePrompt = "",
    size: Size = None,
    seed: Seed = None,
    count: Count = 1,
    frames: Frames = None,
    fps: Fps = None,
    out: Out = None,
    compare: Compare = False,
    device: Device = None,
    dtype: Dtype = None,
    offload: Offload = False,
    vae_tiling: VaeTiling = False,
    vae_slicing: VaeSlicing = False,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Generate a picture or a clip: the cloud begins it, this machine finishes it.

    Without --cloud it starts a server here and stops it after. What is not set is the pair's.
    """
    from ecdiff import generation

    named = {"warmup": warmup, "skip": skip, "smoothing": smoothing, "handoff_step": handoff_step}
    asked = generation.ask(
        pair,
        prompt,
        method,
        steps,
        named if plan is None else _planned(plan, pair, steps, method, named),
        scheduler=scheduler,
        guidance=guidance,
        negative_prompt=negative_prompt,
        size=size,
        seed=seed,
        count=count,
        frames=frames,
        fps=fps,
        handoff=handoff,
    )
    memory = Memory(offload, vae_tiling, vae_slicing)
    place = generation.Place(pair, cloud, token, device, dtype, memory)
    if compare:
        _generate_all(asked, place, out, as_json)
    else:
        _generate_one(asked, place, out, as_json)


def _planned(
    plan: Path, pair: str, steps: int, method: str, named: dict[str, int | float | None]
) -> dict[str, int | float]:
    from ecdiff import pairs, planfile
    from ecdiff.errors import InputError

    if method != "ec-diff" or any(value is not None for value in named.values()):
        raise InputError(
            "--plan stands for --method, --warmup, --skip, --smoothing and --handoff-step: "
            "leave those out"
        )
    return planfile.parameters(plan, pairs.resolve(pair), steps)


def _generate_one(asked: Ask, place: Place, out: Path | None, as_json: bool) -> None:
    from ecdiff import generation

    paths = asked.places(out)
    with (
        console.progress(not as_json) as live,
        generation.pipeline(place, asked.needs_cloud, live.say) as pipe,
    ):
        result = generation.run(pipe, asked, live.step)
        live.say("writing")
        asked.save(result.images, paths)
    _report(asked, paths, result.receipt, as_json)


def _generate_all(asked: Ask, place: Place, out: Path | None, as_json: bool) -> None:
    from ecdiff import compare, generation, pictures

    compare.check(asked)
    paths = asked.places(out)
    [sheet] = pictures.places(compare.sheet_path(out), 1)
    with (
        console.progress(not as_json) as live,
        generation.pipeline(place, True, live.say) as pipe,
    ):
        results = compare.run_all(pipe, asked, live.step)
        live.say("comparing")
        figures = compare.measure(results)
        drawn = {m: pictures.as_output(result.images, "pil") for m, result in results.items()}
        asked.save(results[asked.method].images, paths)
        pictures.save([compare.sheet(figures, drawn)], [sheet])
    more = {"image": str(sheet), "methods": {m: f.to_json() for m, f in figures.items()}}
    _report(asked, paths, results[asked.method].receipt, as_json, compare=more)
    if not as_json:
        console.show(compare.table(figures))
        print(sheet)


def _report(asked: Ask, paths: list[Path], receipt: Receipt, as_json: bool, **more: object) -> None:
    from ecdiff.generation import receipt_lines

    if as_json:
        named: dict[str, object] = {
            "image": str(paths[0]),
            "images": [str(path) for path in paths],
        }
        if asked.fps is not None:
            named |= {"frames": asked.request.frames, "fps": asked.fps}
        print(json.dumps(named | receipt.to_json() | more))
    else:
        print(*paths, *receipt_lines(receipt), sep="\n")


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Beyond loopback a token is needed.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8765,
    pair: PairName = "reference",
    plan: PlanPath = None,
    device: Device = None,
    dtype: Dtype = None,
    offload: Offload = False,
    vae_tiling: VaeTiling = False,
    vae_slicing: VaeSlicing = False,
    token: Token = None,
    stop_at_eof: Annotated[bool, typer.Option("--stop-at-eof", hidden=True)] = False,
) -> None:
    """Serve a pair's cloud model, until Ctrl-C or SIGTERM."""
    from ecdiff import launch, pairs, planfile

    pairs.check_dtype(dtype)
    chosen = pairs.resolve(pair) if plan is None else planfile.with_plan(pairs.resolve(pair), plan)
    memory = Memory(offload, vae_tiling, vae_slicing)
    launch.serve(chosen, host, port, token, device, dtype, stop_at_eof, memory)


@app.command()
def tune(
    pair: PairName = "reference",
    prompts: Annotated[
        Path | None, typer.Option(help="Text, CSV, TSV or JSONL, also .gz; the reference has own.")
    ] = None,
    column: Annotated[str | None, typer.Option(help="Of --prompts: where the prompt is.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many prompts.")] = 32,
    seed: Annotated[int, typer.Option(help="Prompt j has seed + j.")] = 1000,
    guidance: Guidance = None,
    steps: Steps = 50,
    bandwidth: Annotated[float, typer.Option(help="Mbit/s from the cloud to the edge.")] = 18.88,
    measure: Annotated[str, typer.Option(help="steps: per-step times; wall: the clock.")] = "steps",
    step_times: Annotated[
        Path | None, typer.Option(help="Recorded step-times.json; else they are measured.")
    ] = None,
    exhaustive: Annotated[
        bool, typer.Option("--exhaustive", help="Also every k, alpha and s, to compare.")
    ] = False,
    clip: Annotated[bool, typer.Option("--clip", help="Keep Efficiency within 0..1.")] = False,
    quality_floor: Annotated[
        float, typer.Option(help="SSIM the plan may lose on HybridSD, 10 edge steps of 50.")
    ] = 0.02,
    out: Annotated[Path, typer.Option(help="Folder of plan, report and what was measured.")] = Path(
        "tune"
    ),
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Find a pair's best plan on your prompts, hardware and network (EC-Diff, section 3.3).

    Interrupted, the same command goes on where it was.
    """
    from ecdiff.tune import command

    with console.progress(not as_json) as live:
        written = command.run(
            pair,
            command.Wanted(prompts, column, limit),
            seed=seed,
            guidance=guidance,
            steps=steps,
            bandwidth=bandwidth,
            measure=measure,
            times=step_times,
            exhaustive=exhaustive,
            clip=clip,
            floor=quality_floor,
            out=out,
            device=device,
            dtype=dtype,
            say=live.say,
        )
    print(json.dumps(written.to_json()) if as_json else written)


@app.command()
def pairs(as_json: Json = False) -> None:
    """List the pairs of models that can be named."""
    from ecdiff import pairs as known

    entries = [known.describe(known.resolve(name), local_only=True) for name in known.names()]
    if as_json:
        print(json.dumps({"pairs": entries}))
    else:
        console.show(console.pairs_table(entries))


@app.command()
def doctor(
    pair: PairName = "reference", cloud: Cloud = None, token: Token = None, as_json: Json = False
) -> None:
    """Check what is installed, the devices, the pair and the server, and say what to do."""
    from ecdiff import doctor as checks

    with console.progress(not as_json) as live:
        live.say("checking")
        findings = list(checks.examine(pair, cloud, token))
    if as_json:
        print(json.dumps(checks.to_json(findings)))
    else:
        console.show(checks.table(findings))
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(1)


def main() -> None:
    """The entry point."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # other libraries' notes are not for who draws pictures
    app()
