"""Claim: what ecdiff adds to its networks' own time is at most 3 % of a generation.

One round measures a whole EC-Diff generation in process, and, on the same inputs, the bare
forwards it is made of: text encoder, evaluated steps of both networks, VAE decoder.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from statistics import median
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from ecdiff import pairs
from ecdiff.edge.client import InProcess
from ecdiff.edge.pipeline import EdgeCloudPipeline
from ecdiff.families.sd import StableDiffusion
from ecdiff.plan import plan_for
from ecdiff.relay import model_thread
from ecdiff.request import Request

PROMPT = "a big red house in the snow"


def run(
    pair: Annotated[str, typer.Option(help="A pair's name or folder.")] = "reference",
    rounds: Annotated[int, typer.Option(min=1, help="Times each side is measured.")] = 15,
    steps: Annotated[int, typer.Option(min=1, help="Steps of a generation.")] = 50,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...")] = None,
) -> None:
    """Whole generation in process against the sum of its forwards."""
    chosen = pairs.resolve(pair)
    where, dtype = pairs.place(device)
    thread = model_thread()
    cloud, edge = (
        thread.submit(pairs.load, chosen, site, where, dtype).result() for site in ("cloud", "edge")
    )
    assert isinstance(cloud, StableDiffusion)
    assert isinstance(edge, StableDiffusion)
    transport = InProcess(lambda: cloud, pairs.fingerprint(chosen), thread)
    pipe = EdgeCloudPipeline(chosen, edge, transport, thread)
    plan = plan_for("ec-diff", steps, chosen.defaults)
    request = Request(PROMPT, chosen.height, chosen.width, chosen.guidance, seeds=(0,))
    forwards = thread.submit(_forwards, cloud, edge, request).result()
    counts = plan.counts()
    calls = {
        "text encoder": 4,  # prompt and negative prompt, on both sides
        "cloud network": counts.cloud_evaluated,
        "edge network": counts.edge_evaluated,
        "decode": 1,
    }

    async def whole() -> None:
        await pipe.generate(PROMPT, seed=0, plan=plan)

    def bare(name: str) -> Callable[[], None]:
        @torch.no_grad()
        def repeat() -> None:
            for _ in range(calls[name]):
                forwards[name]()

        return lambda: thread.submit(repeat).result()

    with asyncio.Runner() as runner:
        sides: dict[str, Callable[[], Any]] = {"whole": lambda: runner.run(whole())}
        sides |= {name: bare(name) for name in calls}
        for side in sides.values():
            side()
        times = {name: [] for name in sides}  # type: dict[str, list[float]]
        for _ in range(rounds):
            for name, side in sides.items():
                times[name].append(_seconds(side, where))
    _report(chosen.name, times, calls)


def _forwards(
    cloud: StableDiffusion, edge: StableDiffusion, request: Request
) -> dict[str, Callable[[], object]]:
    """One call of each network on inputs of the request's shapes."""
    latents = torch.zeros(cloud.latent_shape(request), device=cloud.device, dtype=cloud.dtype)
    conditioning = cloud.encode(request)
    ids = torch.zeros(1, cloud.tokenizer.model_max_length, dtype=torch.long, device=cloud.device)
    rows = 2 if request.guidance > 1 else 1
    texts = torch.cat([conditioning["negative"], conditioning["prompt"]])[-rows:]
    batch, t = torch.cat([latents] * rows), torch.full((rows,), 500.0, device=cloud.device)

    def network(model: StableDiffusion) -> Callable[[], object]:
        return lambda: model.unet(batch, t, encoder_hidden_states=texts, return_dict=False)

    return {
        "text encoder": lambda: cloud.text_encoder(ids),
        "cloud network": network(cloud),
        "edge network": network(edge),
        "decode": lambda: edge.vae.decode(latents, return_dict=False),
    }


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _report(pair: str, times: dict[str, list[float]], calls: dict[str, int]) -> None:
    """The overhead is the median over the rounds of whole / sum - 1: both sides of a round meet
    the same machine, busy or not."""
    sums = [sum(parts) for parts in zip(*(times[name] for name in calls), strict=True)]
    overhead = median(whole / total - 1 for whole, total in zip(times["whole"], sums, strict=True))
    medians = {name: median(values) for name, values in times.items()}
    table = Table(title=f"one EC-Diff generation of {pair}, median of {len(sums)}")
    for heading in ("part", "calls", "ms"):
        table.add_column(heading, justify="left" if heading == "part" else "right")
    for name, count in calls.items():
        table.add_row(name, str(count), f"{medians[name] * 1e3:.1f}")
    table.add_row("sum of forwards", "", f"{median(sums) * 1e3:.1f}")
    table.add_row("whole generation", "", f"{medians['whole'] * 1e3:.1f}")
    Console().print(table)
    seconds = {name: round(value, 5) for name, value in medians.items()}
    print(json.dumps({"overhead": round(overhead, 4), "rounds": len(sums), "seconds": seconds}))
