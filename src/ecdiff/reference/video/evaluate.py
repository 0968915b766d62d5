"""Measure the video pair: `python -m ecdiff.reference.video.evaluate [--json]`.

Claim: the cloud model moves the right thing the right way on prompts it never saw, the edge does
so less well in at most half the time a step, and EC-Diff with a renoised handoff keeps the cloud's
clip while it is 1.6 times as fast. Prints tables, then a line of JSON with every figure.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ecdiff import clips as files
from ecdiff import pairs
from ecdiff.edge.pipeline import EdgeCloudPipeline
from ecdiff.measure import seconds_of, step_times
from ecdiff.pairs import Pair
from ecdiff.plan import Plan, cloud_only, edge_only, plan_for
from ecdiff.quality import psnr
from ecdiff.reference.data import to_bytes
from ecdiff.reference.figures import (
    arguments,
    bar,
    estimate,
    megabytes,
    print_bars,
    report,
    rounded,
    shown,
    step_figures,
    with_judge,
)
from ecdiff.reference.video.classifier import Classifier, correct, load_classifier
from ecdiff.reference.video.clips import FRAMES, SIDE, Clip, caption, held_out_clips
from ecdiff.reference.video.data import clip_batch
from ecdiff.reference.video.models import WEIGHTS, load_vae
from ecdiff.reference.video.vae import frame_psnr
from ecdiff.request import HANDOFFS, Request
from ecdiff.sources import Side, Source

STEPS = 50
TOLD = ("object", "colour", "motion")  # what a caption always says
BARS = (  # name, row, figure, at least, wanted
    ("judge on rendered clips, all three, %", "rendered", "all three", 97.0),
    ("cloud object, %", "cloud", "object", 75.0),
    ("cloud colour, %", "cloud", "colour", 75.0),
    ("cloud motion, %", "cloud", "motion", 75.0),
    ("EC-Diff against the cloud's clip, dB", "EC-Diff, renoise", "psnr_db", 26.0),
)


def video_pair(weights: Path) -> Pair:
    """The named pair with the weights of another folder."""
    cloud, edge = (Side(Source(str(weights / site))) for site in ("cloud", "edge"))
    return replace(pairs.resolve("reference-video"), cloud=cloud, edge=edge)


@torch.no_grad()
def evaluate(weights: Path, prompts: int, guidance: float, gif: Path | None) -> dict[str, Any]:
    """All figures of the pair in `weights`, JSON-able."""
    clips, pair = held_out_clips(prompts), video_pair(weights)
    ec_diff = plan_for("ec-diff", STEPS, pair.defaults)
    truth, judge = clip_batch(clips), load_classifier(with_judge(weights, WEIGHTS))
    pipe = EdgeCloudPipeline.from_pretrained(pair)
    db, rebuilt = frame_psnr(load_vae(weights), truth)
    plans = {"cloud": (cloud_only(STEPS), "renoise"), "edge": (edge_only(STEPS), "renoise")}
    plans |= {f"EC-Diff, {handoff}": (ec_diff, handoff) for handoff in HANDOFFS}
    rows = {
        "rendered": adherence(judge, truth, clips),
        "autoencoder": adherence(judge, rebuilt, clips),
    }
    drawn: dict[str, torch.Tensor] = {}
    for name, (plan, handoff) in plans.items():
        drawn[name] = draw(pipe, clips, plan, guidance, handoff)
        rows[name] = adherence(judge, drawn[name], clips)
        if name != "cloud":
            a, b = ((x.flatten(1, 2) + 1) / 2 for x in (drawn[name], drawn["cloud"]))
            rows[name]["psnr_db"] = estimate(psnr(a, b))
    result: dict[str, Any] = {
        "guidance": guidance,
        "plan": str(ec_diff),
        "prompts": prompts,
        "seeds": "0 to prompts - 1, the same for every row",
        "threads": torch.get_num_threads(),
        "megabytes": megabytes(weights),
        "vae_psnr_db": float(db.mean()),
        "vae_psnr_db_by_frame": db.mean(0).tolist(),
        "rows": rows,
    }
    result |= _speed(pair, ec_diff, guidance)
    if gif:
        shown_rows = [truth, *(drawn[n] for n in ("cloud", "EC-Diff, renoise", "edge"))]
        save_sheet(shown_rows, gif, pair.fps)
    result["bars"] = [bar(n, rows[row][f]["mean"], ">=", wanted) for n, row, f, wanted in BARS]
    result["bars"] += [
        bar("EC-Diff speed-up on one machine", result["speedup"], ">=", 1.6),
        bar("edge step over cloud step", result["step_ratio"], "<=", 0.5),
        bar("package, MB", result["megabytes"], "<=", 20.0),
    ]
    finished: dict[str, Any] = rounded(result)
    return finished


def draw(
    pipe: EdgeCloudPipeline, clips: list[Clip], plan: Plan, guidance: float, handoff: str
) -> torch.Tensor:
    """Clips [B, 3, 9, 64, 64] in [-1, 1] of the product's own pipeline, seeds 0, 1, 2, ..."""
    drawn = [
        pipe(
            caption(clip), seed=seed, plan=plan, guidance_scale=guidance, handoff=handoff,
            output_type="pt",
        ).images
        for seed, clip in enumerate(clips)
    ]  # fmt: skip
    return torch.cat(drawn).transpose(1, 2) * 2 - 1


def adherence(judge: Classifier, x: torch.Tensor, clips: list[Clip]) -> dict[str, Any]:
    """Percentages right of clips x [B, 3, 9, 64, 64], with 95 % bootstrap intervals."""
    parts = correct(judge, x, clips)
    parts["all three"] = torch.stack([parts[h] for h in TOLD]).all(0)
    return {name: estimate(100 * part.float()) for name, part in parts.items()}


def _speed(pair: Pair, plan: Plan, guidance: float) -> dict[str, float]:
    """Each site's step, and what `plan` gains, encoding and decoding included."""
    device, dtype = pairs.place(None, "float32")
    times = step_times(
        {
            "cloud": pairs.load(pair, "cloud", device, dtype),
            "edge": pairs.load(pair, "edge", device, dtype),
        },
        Request("a red circle moving right", SIDE, SIDE, guidance, (0,), frames=FRAMES),
    )
    speedup = seconds_of(cloud_only(STEPS), times) / seconds_of(plan, times)
    return step_figures(times) | {"speedup": speedup}


def save_sheet(rows: list[torch.Tensor], path: Path, fps: int, columns: int = 8) -> None:
    """One moving sheet: a row of clips [B, 3, 9, 64, 64] in [-1, 1] below the other."""
    tiles = torch.stack([row[:columns] for row in rows])  # [R, C, 3, T, H, W]
    sheet = tiles.permute(3, 0, 4, 1, 5, 2).flatten(1, 2).flatten(2, 3)  # [T, R H, C W, 3]
    large = to_bytes(sheet).repeat_interleave(2, 1).repeat_interleave(2, 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.save([[Image.fromarray(frame.numpy()) for frame in large]], [path], fps)


def print_tables(result: dict[str, Any]) -> None:
    """The figures for people: Markdown, with 95 % intervals."""
    rows = result["rows"]
    print(f"| % right | {' | '.join(rows)} |")
    print("| --- |" + " ---: |" * len(rows))
    for key in rows["rendered"]:
        print(f"| {key} | " + " | ".join(shown(row[key]) for row in rows.values()) + " |")
    cells = (shown(row["psnr_db"]) if "psnr_db" in row else "" for row in rows.values())
    print("| PSNR against the cloud's clip, dB | " + " | ".join(cells) + " |")
    by_frame = " ".join(f"{v:.1f}" for v in result["vae_psnr_db_by_frame"])
    print(f"\nautoencoder {result['vae_psnr_db']:.2f} dB, by frame {by_frame}")
    print(f"step: cloud {result['cloud_ms']:.1f} ms, edge {result['edge_ms']:.1f} ms")
    print(f"{result['plan']}: {result['speedup']:.2f} times as fast as the cloud alone")
    print_bars(result["bars"])


def main() -> None:
    """Parse, measure, print."""
    pair = pairs.resolve("reference-video")
    gif = "--gif", "write a moving sheet: truth, cloud, EC-Diff, edge"
    parser = arguments("ecdiff.reference.video.evaluate", __doc__, pair, WEIGHTS, gif)
    report(parser.parse_args(), evaluate, print_tables)


if __name__ == "__main__":
    main()
