"""Claim: over the last steps EC-Diff's latents are as near the cloud's as HybridSD's.

Figure 5: |x - x_cloud| / |x_cloud| after each step, a mean over the prompts, of EC-Diff and of
HybridSD with 10 and 25 edge steps. Each method starts from the same latents as cloud-only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ecdiff.bench import figures
from ecdiff.bench.setup import Setup
from ecdiff.bench.sheet import Sheet
from ecdiff.measure import Families, begin, hand_over
from ecdiff.plan import Plan, cloud_only, split
from ecdiff.request import Request
from ecdiff.trajectory import Snapshot, advance, snapshot

LIMIT = 8


def path(families: Families, requests: Sequence[Request], plan: Plan) -> Tensor:
    """Latents [T, B, C, h, w] after each step."""
    out: list[Tensor] = []
    states: list[Snapshot] | None = None
    for site, _, end in plan.stretches():
        family = families[site]
        members = begin(family, requests, plan, hand_over(states) if states else None)
        while members[0].step < end:
            advance(family, members)
            out.append(torch.cat([member.latents for member in members]))
        states = [snapshot(family, member) for member in members]
    return torch.stack(out)


def relative_error(x: Tensor, cloud: Tensor) -> Tensor:
    """|x - cloud| / |cloud| of [T, B, ...], as [T, B]."""
    x, cloud = x.float().flatten(2), cloud.float().flatten(2)
    error: Tensor = (x - cloud).square().sum(2).sqrt() / cloud.square().sum(2).sqrt()
    return error


def plans(setup: Setup) -> dict[str, Plan]:
    counts = [round(k * setup.steps / 50) for k in (10, 25)]
    hybrids = {f"HybridSD, {k} edge steps": split(setup.steps, setup.steps - k) for k in counts}
    return {"EC-Diff": setup.ec_diff, **hybrids}


def measure(setup: Setup, guidance: float, say: Callable[[str], object]) -> dict[str, Any]:
    chosen = plans(setup)
    sums = {name: [0.0] * setup.steps for name in chosen}
    for part in setup.parts(guidance):

        def errors(part: Sequence[Request] = part) -> dict[str, list[float]]:
            say(f"guidance {guidance:g}: the latents of every step")
            cloud = path(setup.families, part, cloud_only(setup.steps))
            return {
                name: relative_error(path(setup.families, part, plan), cloud).sum(1).tolist()
                for name, plan in chosen.items()
            }

        more = {name: plan.to_json() for name, plan in chosen.items()}
        for name, values in setup.keep("error", part, more, errors).items():
            sums[name] = [a + b for a, b in zip(sums[name], values, strict=True)]
    count = len(setup.texts)
    return {
        "series": {name: [round(v / count, 5) for v in each] for name, each in sums.items()},
        "plans": {name: str(plan) for name, plan in chosen.items()},
    }


def sheets(result: dict[str, Any]) -> list[Sheet]:
    steps = result["steps"]
    marks = [round(share * steps) for share in (0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0)]
    return [
        Sheet(
            f"latent error against cloud-only, guidance {found['guidance']:g}",
            ["after step", *(str(mark) for mark in marks)],
            [
                [name, *(f"{values[mark - 1]:.4f}" for mark in marks)]
                for name, values in found["series"].items()
            ],
        )
        for found in result["results"]
    ]


def draw(result: dict[str, Any]) -> Any:
    steps = range(1, result["steps"] + 1)
    series = dict.fromkeys(result["results"][0]["series"], steps)
    return figures.lines(result["results"], series, "step", "latent error, relative")
