"""Claim: EC-Diff is faster than the cloud alone and stays close to its pictures.

Every row draws the same prompts from the same seeds; PSNR and SSIM are against the cloud-only
pictures. Time is the sum of per-step times, measured interleaved in this run, over the steps
each plan evaluates, so that a busy machine does not favour a row.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from ecdiff import pairs
from ecdiff.errors import InputError
from ecdiff.plan import Plan, Site, cloud_only, edge_only, split
from ecdiff.quality import psnr, ssim
from ecdiff.request import Request
from ecdiff.trajectory import Family, Snapshot, advance, snapshot

Families = dict[Site, Family]


def rows(steps: int) -> dict[str, Plan]:
    """The paper's plan shapes (Table 5), scaled to `steps`, beside cloud, edge and HybridSD."""

    def scaled(s: int) -> int:
        return round(s * steps / 50)

    plans = {"cloud": cloud_only(steps), "edge": edge_only(steps)}
    for k in (10, 25):
        plans[f"HybridSD, {scaled(k)} edge steps"] = split(steps, steps - scaled(k))
    for p, k, alpha, handoffs in ((7, 2, 0.3, (34, 35, 36, 37)), (6, 5, 0.2, (30, 33, 36))):
        for s in (*(scaled(s) for s in handoffs), steps):
            end = f"s{s}" if s < steps else "cloud only"
            plans[f"EC-Diff p{p} k{k} alpha {alpha} {end}"] = split(steps, s, p, k, alpha)
    return plans


def run(
    prompts: Annotated[
        Path | None, typer.Option(help="A text file, one prompt a line; else held-out scenes.")
    ] = None,
    pair: Annotated[str, typer.Option(help="A pair's name or folder.")] = "reference",
    limit: Annotated[int, typer.Option(min=1, help="How many prompts.")] = 32,
    steps: Annotated[int, typer.Option(min=10, help="Steps of each trajectory.")] = 50,
    seed: Annotated[int, typer.Option(help="Prompt j has seed + j.")] = 0,
    guidance: Annotated[list[float] | None, typer.Option(help="Default: the pair's.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...")] = None,
) -> None:
    """Quality against speed-up of every method, on the same prompts and seeds."""
    chosen = pairs.resolve(pair)
    where, dtype = pairs.place(device)
    families: Families = {
        "cloud": pairs.load(chosen, "cloud", where, dtype),
        "edge": pairs.load(chosen, "edge", where, dtype),
    }
    texts = _prompts(prompts, limit)
    results = []
    for g in guidance or [chosen.guidance]:
        requests = [
            Request(text, chosen.height, chosen.width, g, seeds=(seed + j,))
            for j, text in enumerate(texts)
        ]
        times = step_times(families, requests[0])
        reference, measured = None, []
        for name, plan in track(rows(steps).items(), f"guidance {g:g}", transient=True):
            pictures = generate(families, requests, plan)
            reference = pictures if reference is None else reference
            measured.append(_row(name, plan, pictures, reference, times))
        results.append({"guidance": g, "step_seconds": times, "rows": measured})
        _show(f"{chosen.name}, guidance {g:g}, {steps} steps, {len(texts)} prompts", measured)
    settings = {"pair": chosen.name, "revision": chosen.revision, "steps": steps, "seed": seed}
    print(json.dumps(settings | {"prompts": len(texts), "results": results}))


def generate(
    families: Families, requests: Sequence[Request], plan: Plan, batch: int = 16
) -> Tensor:
    """Pictures [B, 3, H, W] of one-picture requests, denoised `batch` at a time."""
    pictures = []
    for first in range(0, len(requests), batch):
        part = requests[first : first + batch]
        states: list[Snapshot | None] = [None] * len(part)
        for site, _, end in plan.stretches():
            family = families[site]
            members = [
                family.begin(r, plan, r.seeds[0], family.encode(r), state)
                for r, state in zip(part, states, strict=True)
            ]
            while members[0].step < end:
                advance(family, members)
            states = [snapshot(family, member) for member in members]
        pictures.append(family.decode(torch.cat([member.latents for member in members])))
    return torch.cat(pictures)


def step_times(families: Families, request: Request, rounds: int = 40) -> dict[str, float]:
    """Median seconds of one picture's parts, measured in turn: `cloud` and `edge` are evaluated
    steps, `extrapolated` a step without a network, and `fixed` encoding and decoding."""
    plan = cloud_only(rounds + 1)
    conditioning = {site: family.encode(request) for site, family in families.items()}
    members = {
        site: family.begin(request, plan, 0, conditioning[site])
        for site, family in families.items()
    }
    idle = families["cloud"].begin(request, plan, 0, conditioning["cloud"])
    noise = families["cloud"].predict([idle])

    def extrapolated() -> None:
        families["cloud"].step(idle, noise + noise)
        idle.step += 1

    def fixed() -> None:
        families["cloud"].encode(request)
        families["edge"].decode(members["edge"].latents)

    work = {
        "cloud": lambda: advance(families["cloud"], [members["cloud"]]),
        "edge": lambda: advance(families["edge"], [members["edge"]]),
        "extrapolated": extrapolated,
        "fixed": fixed,
    }
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, do in work.items():
            began = time.perf_counter()
            do()
            if noise.is_cuda:
                torch.cuda.synchronize(noise.device)
            times[name].append(time.perf_counter() - began)
    return {name: round(median(values), 6) for name, values in times.items()}


def seconds_of(plan: Plan, times: dict[str, float]) -> float:
    """Time of one picture on one machine, without the network."""
    counts = plan.counts()
    return (
        counts.cloud_evaluated * times["cloud"]
        + counts.edge_evaluated * times["edge"]
        + counts.extrapolated * times["extrapolated"]
        + times["fixed"]
    )


def _row(
    name: str, plan: Plan, pictures: Tensor, cloud: Tensor, times: dict[str, float]
) -> dict[str, Any]:
    cloud_seconds = seconds_of(cloud_only(plan.steps), times)
    same = name == "cloud"
    return {
        "name": name,
        "psnr": None if same else round(float(psnr(pictures, cloud).mean()), 2),
        "ssim": None if same else round(float(ssim(pictures, cloud).mean()), 4),
        "speedup": round(cloud_seconds / seconds_of(plan, times), 2),
        "plan": str(plan),
        **asdict(plan.counts()),
    }


def _prompts(source: Path | None, limit: int) -> list[str]:
    if source is None:
        from ecdiff.reference.scenes import caption, held_out_scenes

        ones, twos = held_out_scenes(limit - limit // 2, 1), held_out_scenes(limit // 2, 2)
        return [caption(scene) for scene in (*ones, *twos)]
    try:
        lines = [line.strip() for line in source.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read prompts from {source}: {error}") from error
    texts = [line for line in lines if line][:limit]
    if not texts:
        raise InputError(f"{source} holds no prompt: put one on each line")
    return texts


def _show(title: str, measured: list[dict[str, Any]]) -> None:
    table = Table(title=title)
    for heading in ("method", "PSNR dB", "SSIM", "speed-up", "cloud", "extrapolated", "edge"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for row in measured:
        table.add_row(
            row["name"],
            "" if row["psnr"] is None else f"{row['psnr']:.2f}",
            "" if row["ssim"] is None else f"{row['ssim']:.3f}",
            f"{row['speedup']:.2f}",
            str(row["cloud_evaluated"]),
            str(row["extrapolated"]),
            str(row["edge_evaluated"]),
        )
    Console().print(table)
