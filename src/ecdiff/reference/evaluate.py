"""Measure the reference pair: `python -m ecdiff.reference.evaluate [--json]`.

Claim: the cloud model draws held-out prompts as told, two objects included; the edge model, in at
most half the time a step, does so less well alone and as well from the cloud's handoff; and late
steps matter, so that finishing at the edge beats holding the cloud's last noise (coasting).
Prints tables, then a line of JSON with every figure and `bars`.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from ecdiff import pairs
from ecdiff.measure import Families, step_times
from ecdiff.plan import Phase, Plan, cloud_only, edge_only, split
from ecdiff.reference.canvas import SIDE
from ecdiff.reference.classifier import HEADS, correct, load_classifier
from ecdiff.reference.data import picture_batch, to_bytes
from ecdiff.reference.figures import (
    adherence,
    arguments,
    autoencoder_quality,
    bar,
    late,
    megabytes,
    noise_error,
    pictures,
    print_bars,
    report,
    rounded,
    shown,
    step_figures,
    with_judge,
)
from ecdiff.reference.models import WEIGHTS, load_pipeline
from ecdiff.reference.scenes import Scene, caption, held_out_scenes
from ecdiff.request import Request

STEPS = 50
HANDOFF, LATE = 35, 36  # steps of the adherence and of the late-steps bars
HIGH_GUIDANCE = 7.5
SHOWN = 16  # pictures of each kind in the grid
ADHERENCE_PLANS = {
    "cloud": cloud_only(STEPS),
    "edge": edge_only(STEPS),
    "handoff": split(STEPS, HANDOFF),
}
LATE_PLANS = {
    "finish": split(STEPS, LATE),
    "coast": Plan(
        STEPS,
        (Phase("cloud", LATE - 2), Phase("cloud", STEPS - LATE + 2, 2, STEPS, rule="reuse")),
    ),
}


def evaluate(weights: Path, prompts: int, guidance: float, grid: Path | None) -> dict[str, Any]:
    """All figures of the pair in `weights`, judged by its classifier (else the shipped), JSON-able.

    `prompts` held-out prompts of one object and as many of two; prompt i has seed i in every row.
    """
    one, two = held_out_scenes(prompts), held_out_scenes(prompts, things=2)
    judge = load_classifier(with_judge(weights, WEIGHTS) / "classifier")
    pipes = {site: load_pipeline(weights, site) for site in ("cloud", "edge")}
    pair = pairs.folder_pair("reference", weights)
    device, dtype = pairs.place(None, "float32")
    families: Families = {
        "cloud": pairs.load(pair, "cloud", device, dtype),
        "edge": pairs.load(pair, "edge", device, dtype),
    }
    truth = picture_batch([*one, *two])
    result: dict[str, Any] = {
        "guidance": guidance,
        "steps": STEPS,
        "scheduler": "DDIM",
        "prompts_one_object": len(one),
        "prompts_two_objects": len(two),
        "threads": torch.get_num_threads(),
        "megabytes": megabytes(weights),
        "renders": adherence(judge, truth, one, two),
    }
    result |= autoencoder_quality(pipes["cloud"], truth[:prompts])
    request = Request(caption(one[0]), SIDE, SIDE, guidance, (0,))
    result |= step_figures(step_times(families, request))
    plans = ADHERENCE_PLANS | LATE_PLANS
    drawn = pictures(families, [*one, *two], plans, guidance)
    high = pictures(families, [*one, *two], {"cloud": plans["cloud"]} | LATE_PLANS, HIGH_GUIDANCE)
    for name in ADHERENCE_PLANS:
        result[name] = adherence(judge, drawn[name] * 2 - 1, one, two)
    result["noise_error"] = {site: noise_error(pipe, truth, one) for site, pipe in pipes.items()}
    result["late"] = {f"{g:g}": late(p) for g, p in ((guidance, drawn), (HIGH_GUIDANCE, high))}
    result["bars"] = bars(result)
    if grid:
        count = min(SHOWN, prompts)
        chosen = [*range(count), *range(prompts, prompts + count)]
        x, scenes = drawn["cloud"][chosen] * 2 - 1, [*one[:count], *two[:count]]
        right = correct(judge, x, scenes)
        save_verdicts(
            grid, x, scenes, [[h for h in HEADS if not right[h][i]] for i in range(len(x))]
        )
    finished: dict[str, Any] = rounded(result)
    return finished


def bars(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What the pair must reach: name, value, what is wanted, and whether it holds."""
    cloud, edge, handoff = (result[row] for row in ADHERENCE_PLANS)
    two, whole = "two: all three", "two: the whole prompt"
    lost = max(cloud[name]["mean"] - handoff[name]["mean"] for name in cloud)
    worst_judged = min(part["mean"] for part in result["renders"].values())
    out = [
        bar("autoencoder PSNR, dB", result["vae_psnr_db"]["mean"], ">=", 31),
        bar("autoencoder SSIM", result["vae_ssim"]["mean"], ">=", 0.95),
        *(
            bar(f"cloud {name}, %", cloud[name]["mean"], ">=", 92)
            for name in ("object", "colour", "background")
        ),
        bar("cloud size, %", cloud["size, where said"]["mean"], ">=", 90),
        bar("cloud two objects, %", cloud[two]["mean"], ">=", 80),
        bar(
            "edge below the cloud, two objects", cloud[whole]["mean"] - edge[whole]["mean"], ">=", 5
        ),
        bar(f"lost by a handoff at {HANDOFF}, points", lost, "<=", 2),
        bar("edge step over cloud step", result["step_ratio"], "<=", 0.5),
        bar("classifier's worst on renders, %", worst_judged, ">=", 99),
        bar("package, MB", result["megabytes"], "<=", 40),
    ]
    for guidance, found in result["late"].items():
        gain = found["gain_db"]["mean"]
        kept = {name: abs(found[name]["detail"]["mean"] - 1) for name in LATE_PLANS}
        name = f"edge finish over coasting from {LATE}, guidance {guidance}, dB"
        late_bar = bar(name, gain, ">=", 2)
        late_bar["holds"] |= kept["finish"] <= 0.1 and kept["coast"] >= 0.2
        out.append(late_bar)
    return out


def save_verdicts(
    path: Path, x: torch.Tensor, scenes: list[Scene], wrong: list[list[str]], columns: int = 8
) -> None:
    """Pictures x [B, 3, 128, 128] in [-1, 1] with their prompts and what the judge finds wrong."""
    line, rows = 11, -(-len(x) // columns)
    height = SIDE + 4 * line
    sheet = Image.new("RGB", (columns * SIDE, rows * height), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (tile, scene) in enumerate(zip(x, scenes, strict=True)):
        left, top = i % columns * SIDE, i // columns * height
        pixels = to_bytes(tile).permute(1, 2, 0).numpy()
        sheet.paste(Image.fromarray(pixels), (left, top))
        words = textwrap.wrap(caption(scene), 23)[:3]
        verdict = "wrong: " + ", ".join(wrong[i]) if wrong[i] else "right"
        for row, text in enumerate([*words, verdict]):
            colour = "black" if row < len(words) else "red" if wrong[i] else "green"
            pen.text((left + 2, top + SIDE + row * line), text, fill=colour)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def print_tables(result: dict[str, Any]) -> None:
    """The figures for people: Markdown, with 95 % intervals."""
    rows = {"rendered": result["renders"]} | {name: result[name] for name in ADHERENCE_PLANS}
    print(f"| % right | {' | '.join(rows)} |")
    print("| --- |" + " ---: |" * len(rows))
    for key in result["renders"]:
        print(f"| {key} | " + " | ".join(shown(row[key]) for row in rows.values()) + " |")
    print(
        f"\n| late steps: guidance | finish at the edge from {LATE} | coasting from {LATE} | gain |"
    )
    print("| --- | ---: | ---: | ---: |")
    for guidance, found in result["late"].items():
        cells = [
            f"{found[n]['psnr_db']['mean']:.1f} dB, detail {found[n]['detail']['mean']:.2f}"
            for n in LATE_PLANS
        ]
        print(f"| {guidance} | {' | '.join(cells)} | {shown(found['gain_db'])} dB |")
    print_bars(result["bars"])


def main() -> None:
    """Parse, measure, print."""
    pair = pairs.resolve("reference")
    grid = "--grid", "write the cloud's pictures with verdicts"
    parser = arguments("ecdiff.reference.evaluate", __doc__, pair, WEIGHTS, grid)
    report(parser.parse_args(), evaluate, print_tables)


if __name__ == "__main__":
    main()
