"""Claim: the cloud model corrects small errors: half a percent of noise a step changes nothing.

Figure 1. After each step of cloud-only, Gaussian noise is added to the latents: 0.5, 1 and 2 % of
their standard deviation at that step. The pictures are held against those without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ecdiff.bench import figures
from ecdiff.bench.rows import DIGITS, judge, mean
from ecdiff.bench.setup import Setup
from ecdiff.bench.sheet import Sheet, shown
from ecdiff.measure import begin, generate
from ecdiff.plan import cloud_only
from ecdiff.request import Request
from ecdiff.trajectory import Family, advance

LIMIT = 8
SHARES = (0.005, 0.01, 0.02)
SEED = 10_000_000  # of the noise: away from the seeds of the first latents


def perturbed(family: Family, requests: Sequence[Request], steps: int, share: float) -> Tensor:
    """Pictures [B, 3, H, W]: x + share std(x) n after every step, n from N(0, I)."""
    members = begin(family, requests, cloud_only(steps))
    generators = [torch.Generator().manual_seed(SEED + r.seeds[0]) for r in requests]
    while not members[0].finished:
        advance(family, members)
        for member, generator in zip(members, generators, strict=True):
            x = member.latents
            n = torch.randn(x.shape, generator=generator).to(x.device, x.dtype)
            member.latents = x + share * x.std() * n
    return family.decode(torch.cat([member.latents for member in members]))


def measure(setup: Setup, guidance: float, say: Callable[[str], object]) -> dict[str, Any]:
    found: list[list[dict[str, float | None]]] = [[] for _ in SHARES]
    for part in setup.parts(guidance):
        say(f"guidance {guidance:g}: noise after each step")
        more = {"shares": SHARES, "steps": setup.steps, "lpips": setup.lpips}
        kept = setup.keep("robustness", part, more, partial(_figures, setup, part))
        for each, figures_of_part in zip(found, kept, strict=True):
            each += figures_of_part
    rows = [
        {"share": share, **{n: mean([f[n] for f in each], d) for n, d in DIGITS.items()}}
        for share, each in zip(SHARES, found, strict=True)
    ]
    return {"rows": rows}


def _figures(setup: Setup, requests: Sequence[Request]) -> list[list[dict[str, float | None]]]:
    """Each picture's figures, by share of noise."""
    plan, prompts = cloud_only(setup.steps), [request.prompt for request in requests]
    clean = generate(setup.families, requests, plan)
    noisy = [perturbed(setup.families["cloud"], requests, setup.steps, s) for s in SHARES]
    return [judge(setup, pictures, clean, prompts) for pictures in noisy]


def sheets(result: dict[str, Any]) -> list[Sheet]:
    return [
        Sheet(
            f"noise added after each cloud step, guidance {found['guidance']:g}",
            ["noise a step", "PSNR dB", "SSIM", "detail", "adherence"],
            [
                [
                    f"{row['share']:.1%}",
                    shown(row["psnr"]),
                    shown(row["ssim"], 3),
                    shown(row["detail"]),
                    shown(row["adherence"]),
                ]
                for row in found["rows"]
            ],
        )
        for found in result["results"]
    ]


def draw(result: dict[str, Any]) -> Any:
    figure, [axes] = figures.page(1)
    for found in result["results"]:
        axes.plot(
            [100 * row["share"] for row in found["rows"]],
            [row["psnr"] for row in found["rows"]],
            marker="o",
            label=f"guidance {found['guidance']:g}",
        )
    axes.set(xlabel="noise added after each step, %", ylabel="PSNR against cloud-only, dB")
    axes.legend()
    return figure
