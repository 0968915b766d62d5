"""Claim: at the papers' sizes EC-Diff generates in less time than the cloud model alone.

Builds a pair's real networks with random weights, from configurations kept here (no hub), and
measures one evaluated step of each, an extrapolated step, the text encoding and the decoding, in
turn, several times over; medians. A method's time is the sum over its plan. The transfer is the
real payload's bytes at the paper's 18.88 Mbit/s. Time does not depend on what the weights are.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Generator
from dataclasses import asdict
from statistics import median
from typing import Annotated, Any, TypeVar

import torch
import typer
from rich.console import Console
from rich.table import Table

from ecdiff import pairs
from ecdiff.bench import table6
from ecdiff.bench.architectures import check_counts, families, pair_parts
from ecdiff.errors import InputError
from ecdiff.plan import Plan, Site, cloud_only, edge_only, plan_for, split
from ecdiff.relay import Job, run_job, unpack_for
from ecdiff.request import Request
from ecdiff.trajectory import Family, advance, run_stretch

PROMPT = "a photo of an astronaut riding a horse on mars"
FINGERPRINT = "0" * 64  # both sides are ours, in this process
WARM_UP = 2  # rounds that are not counted

Families = dict[Site, Family]
T = TypeVar("T")


def run(
    pair: Annotated[str, typer.Option(help="A name `ecdiff pairs` lists.")] = "sdxl-vega",
    smallest: Annotated[
        bool, typer.Option("--smallest", help="Narrow networks and a small size; runs on a CPU.")
    ] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each part.")] = 10,
    whole: Annotated[
        int, typer.Option(min=0, help="Run every plan for real as well, this often.")
    ] = 0,
    skip_text: Annotated[
        bool, typer.Option("--skip-text", help="Leave the text encoding out (T5-XXL: 9.5 GB).")
    ] = False,
    device: Annotated[str | None, typer.Option(help="cuda, cuda:1, ... or cpu.")] = None,
) -> None:
    """Real-size latency of every method, beside the paper's Table 6."""
    entry = pair_parts(pair)
    where, _ = pairs.place(device)
    if not smallest and where.type != "cuda":
        raise InputError(
            f"the real sizes need a CUDA GPU, not {where.type}: --smallest runs the same on a CPU"
        )
    counts = check_counts(pair)
    dtype = getattr(torch, entry["dtype"]) if where.type == "cuda" else torch.float32
    chosen = pairs.resolve(pair)
    plans = _plans(chosen)
    request = _request(chosen, entry["smallest"] if smallest else {})
    both = families(pair, smallest, skip_text, where, dtype)
    travels = chosen.embeddings == "cloud"
    sent = payload_bytes(both, request, travels)
    times = part_times(both, request, rounds, where)
    if skip_text:
        times["encode"] = 0.0
    wholes = whole_times(both, request, plans, whole, where, travels)
    rows = [
        _row(name, plans, times, sent, wholes.get(name), table6.PAPER.get(pair)) for name in plans
    ]
    _show(f"{pair}, {_size(request)}, guidance {request.guidance:g}, {_device(where)}", rows)
    if smallest:
        print(
            "SMALLEST: the same code on narrow networks; its seconds say nothing of the real ones"
        )
    print(*table6.lines(pair, plans), sep="\n")
    print(
        json.dumps(
            {
                "pair": pair,
                "smallest": smallest,
                "device": _device(where),
                "dtype": str(dtype).removeprefix("torch."),
                "size": _size(request),
                "guidance": request.guidance,
                "parameters": counts,
                "rounds": rounds,
                "text_encoding": not skip_text,
                "part_seconds": times,
                "payload_bytes": sent,
                "rows": rows,
                "paper": table6.to_json(pair, plans),
                "versions": {"torch": torch.__version__, "python": platform.python_version()},
            }
        )
    )


def _plans(pair: pairs.Pair, steps: int = 50) -> dict[str, Plan]:
    """Table 6's columns; EC-Diff has the pair's plan of Table 5."""
    return {
        table6.CLOUD: cloud_only(steps),
        table6.EDGE: edge_only(steps),
        table6.HYBRID_10: split(steps, steps - 10),
        table6.HYBRID_25: split(steps, steps - 25),
        table6.EC_DIFF: plan_for("ec-diff", steps, pair.defaults),
    }


def _request(pair: pairs.Pair, changes: dict[str, int]) -> Request:
    size: dict[str, Any] = {"height": pair.height, "width": pair.width, "frames": pair.frames}
    return Request(PROMPT, guidance=pair.guidance, seeds=(0,), **(size | changes))


def part_times(
    both: Families, request: Request, rounds: int, device: torch.device
) -> dict[str, float]:
    """Median seconds of a generation's parts: `cloud` and `edge` are one evaluated step, with
    guidance's doubled batch where it is > 1; `extrapolated` is a step without a network."""
    conditioning = {site: family.encode(request) for site, family in both.items()}
    cloud, edge = both["cloud"], both["edge"]

    def begin(site: Site) -> Any:
        return both[site].begin(request, cloud_only(50), 0, conditioning[site])

    noise = cloud.predict([begin("cloud")])
    latents = begin("edge").latents
    parts: dict[str, Callable[[], Callable[[], object]]] = {  # what is prepared, then timed
        "cloud": lambda: _bind(advance, cloud, [begin("cloud")]),
        "edge": lambda: _bind(advance, edge, [begin("edge")]),
        "extrapolated": lambda: _bind(_extrapolate, cloud, begin("cloud"), noise),
        "encode": lambda: _bind(cloud.encode, request),
        "decode": lambda: _bind(edge.decode, latents),
    }
    times: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(WARM_UP + rounds):
        for name, prepare in parts.items():
            times[name].append(_timed(prepare(), device))
    return {name: round(median(values[WARM_UP:]), 6) for name, values in times.items()}


def _bind(do: Callable[..., object], *arguments: object) -> Callable[[], object]:
    return lambda: do(*arguments)


def _extrapolate(family: Family, trajectory: Any, noise: torch.Tensor) -> None:
    family.step(trajectory, noise + noise)


def _timed(do: Callable[[], object], device: torch.device) -> float:
    _wait_for(device)
    began = time.perf_counter()
    do()
    _wait_for(device)
    return time.perf_counter() - began


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def generation(both: Families, request: Request, plan: Plan, travels: bool) -> bytes:
    """One generation as the two sides do it; the payload that travelled, empty where none did.

    `travels` is for a pair whose edge gets its embeddings from the cloud. Latents are not
    converted to another scale: that takes no time, and here they mean nothing.
    """
    sites = [site for site, _, _ in plan.stretches()]
    states, payload, conditioning = None, b"", None
    if sites[0] == "cloud":
        job = Job(request, plan, FINGERPRINT)
        *_, last = run_job(both["cloud"], FINGERPRINT, job, None, send_conditioning=travels)
        assert isinstance(last, bytes)
        taken = unpack_for(job, FINGERPRINT, last)
        payload, states, conditioning = last, taken.snapshots, taken.conditioning
    if sites[-1] == "edge":
        edge = both["edge"]
        finished = _finish(
            run_stretch(edge, request, plan, conditioning or edge.encode(request), states)
        )
        latents = torch.cat([t.latents for t in finished])
    else:
        assert states is not None
        latents = torch.cat([s.latents for s in states])
    both["edge"].decode(latents)
    return payload


def _finish(work: Generator[object, None, T]) -> T:
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result


def payload_bytes(both: Families, request: Request, travels: bool) -> int:
    """Bytes that travel at a handoff. They are the same at every step: here it is after one."""
    return len(generation(both, request, split(2, 1), travels))


def whole_times(
    both: Families,
    request: Request,
    plans: dict[str, Plan],
    runs: int,
    device: torch.device,
    travels: bool,
) -> dict[str, float]:
    """Median seconds of whole generations, in turn; empty where `runs` is 0."""
    times: dict[str, list[float]] = {name: [] for name in plans}
    for _ in range(runs):
        for name, plan in plans.items():
            times[name].append(_timed(_bind(generation, both, request, plan, travels), device))
    return {name: median(values) for name, values in times.items() if values}


def seconds_of(plan: Plan, times: dict[str, float]) -> float:
    """One generation without its transfer: text encoding, steps, decoding. Where both sides
    encode, the edge does so while the cloud is at work: it counts once."""
    counts = plan.counts()
    return (
        times["encode"]
        + counts.cloud_evaluated * times["cloud"]
        + counts.edge_evaluated * times["edge"]
        + counts.extrapolated * times["extrapolated"]
        + times["decode"]
    )


def _row(
    name: str,
    plans: dict[str, Plan],
    times: dict[str, float],
    sent: int,
    whole: float | None,
    paper: table6.Row | None,
) -> dict[str, Any]:
    plan = plans[name]
    computed, cloud = seconds_of(plan, times), seconds_of(plans[table6.CLOUD], times)
    travels = len(list(plan.stretches())) > 1
    total = computed + (table6.transfer_seconds(sent) if travels else 0.0)
    return {
        "name": name,
        "seconds": round(computed, 4),
        "seconds_with_transfer": round(total, 4),
        "speedup": round(cloud / computed, 3),
        "speedup_with_transfer": round(cloud / total, 3),
        "whole_seconds": None if whole is None else round(whole, 4),
        "paper_seconds": None if paper is None else paper.seconds[name],
        "paper_speedup": None
        if paper is None
        else round(paper.seconds[table6.CLOUD] / paper.seconds[name], 3),
        "plan": str(plan),
        **asdict(plan.counts()),
    }


def _show(title: str, rows: list[dict[str, Any]]) -> None:
    columns = {
        "method": "name",
        "evaluated\nC + E": "evaluated",
        "steps\ns": "seconds",
        "with\ntransfer": "seconds_with_transfer",
        "speed\nup": "speedup_with_transfer",
        "run\nwhole, s": "whole_seconds",
        "paper\ns": "paper_seconds",
        "paper\nup": "paper_speedup",
    }
    if rows[0]["whole_seconds"] is None:
        del columns["run\nwhole, s"]
    table = Table(title=title)
    for heading in columns:
        first = heading == "method"
        table.add_column(heading, justify="left" if first else "right", no_wrap=first)
    for row in rows:
        evaluated = f"{row['cloud_evaluated']} + {row['edge_evaluated']}"
        shown = row | {"evaluated": evaluated}
        table.add_row(*(_cell(shown[key]) for key in columns.values()))
    Console().print(table)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    return "" if value is None else str(value)


def _size(request: Request) -> str:
    size = f"{request.width}x{request.height}"
    return size if request.frames is None else f"{request.frames}x{size}"


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()
