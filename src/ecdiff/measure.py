"""What measuring is made of: pictures by a plan, in batches, and the time a plan takes.

Time is the sum of per-step times, measured once and interleaved, over the steps a plan evaluates,
and of the handoff's bytes over a stated bandwidth: a busy machine does not favour one plan.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import inf, isfinite
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from ecdiff.errors import InputError
from ecdiff.extrapolate import History
from ecdiff.handoff import pack
from ecdiff.plan import Plan, Site, cloud_only, split
from ecdiff.request import Request
from ecdiff.trajectory import Family, Snapshot, Trajectory, advance, snapshot
from ecdiff.validate import parse

Families = Mapping[Site, Family]
BATCH = 16  # trajectories in one network call
PARTS = ("cloud", "edge", "extrapolated", "fixed")


def generate(
    families: Families, requests: Sequence[Request], plan: Plan, batch: int = BATCH
) -> Tensor:
    """Pictures [B, 3, H, W] of one-picture requests, denoised `batch` at a time."""
    pictures = []
    for part in batches(requests, batch):
        states: list[Snapshot] | None = None
        for site, _, end in plan.stretches():
            states = advance_to(families[site], part, plan, end, states)
        assert states is not None
        pictures.append(families[site].decode(torch.cat([s.latents for s in states])))
    return torch.cat(pictures)


def batches(requests: Sequence[Request], batch: int = BATCH) -> Iterator[Sequence[Request]]:
    for first in range(0, len(requests), batch):
        yield requests[first : first + batch]


def begin(
    family: Family,
    requests: Sequence[Request],
    plan: Plan,
    states: Sequence[Snapshot] | None = None,
) -> list[Trajectory]:
    """One trajectory a request, from its seed or from its state."""
    given: Sequence[Snapshot | None] = states or [None] * len(requests)
    return [
        family.begin(request, plan, request.seeds[0], family.encode(request), state)
        for request, state in zip(requests, given, strict=True)
    ]


def advance_to(
    family: Family,
    requests: Sequence[Request],
    plan: Plan,
    step: int,
    states: Sequence[Snapshot] | None = None,
) -> list[Snapshot]:
    """The whole states at `step`, with one network call an evaluated step."""
    members = begin(family, requests, plan, states)
    while members[0].step < step:
        advance(family, members)
    return [snapshot(family, member) for member in members]


def hand_over(states: Sequence[Snapshot]) -> list[Snapshot]:
    """The states as another model gets them: without the extrapolation history."""
    return [replace(state, history=History()) for state in states]


def step_times(families: Families, request: Request, rounds: int = 40) -> dict[str, float]:
    """Median seconds of one picture's parts, measured in turn: `cloud` and `edge` are evaluated
    steps, `extrapolated` a step without a network, and `fixed` encoding and decoding."""
    plan = cloud_only(rounds + 1)
    members = {site: begin(family, [request], plan) for site, family in families.items()}
    [idle] = begin(families["cloud"], [request], plan)
    noise = families["cloud"].predict([idle])

    def extrapolated() -> None:
        families["cloud"].step(idle, noise + noise)
        idle.step += 1

    def fixed() -> None:
        families["cloud"].encode(request)
        families["edge"].decode(members["edge"][0].latents)

    work = {
        "cloud": lambda: advance(families["cloud"], members["cloud"]),
        "edge": lambda: advance(families["edge"], members["edge"]),
        "extrapolated": extrapolated,
        "fixed": fixed,
    }
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, do in work.items():
            began = time.perf_counter()
            do()
            wait_for(noise.device)
            times[name].append(time.perf_counter() - began)
    return {name: round(median(values), 6) for name, values in times.items()}


def read_step_times(path: Path) -> dict[str, float]:
    """Step times that were recorded as JSON. Raises InputError."""
    try:
        times = parse(dict[str, float], path.read_bytes(), str(path))
    except OSError as error:
        raise InputError(f"cannot read step times from {path}: {error.strerror}") from error
    if set(times) != set(PARTS) or not all(isfinite(t) and t >= 0 for t in times.values()):
        raise InputError(f"{path} is not step times: it needs seconds for {', '.join(PARTS)}")
    return times


def wait_for(device: torch.device) -> None:
    """Until the work that was given to `device` is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def handoff_bytes(families: Families, request: Request, fingerprint: str) -> int:
    """Size of one picture's handoff, with the history its scheduler keeps."""
    plan = split(4, 3)
    states = advance_to(families["cloud"], [request], plan, 3)
    return len(pack("handoff", fingerprint, hand_over(states)))


def seconds_of(
    plan: Plan, times: Mapping[str, float], size: int = 0, bandwidth: float = inf
) -> float:
    """Time of one picture: its steps, encoding and decoding, and `size` bytes over `bandwidth`
    (Mbit/s) each time the cloud is done, to the edge, which decodes. Edge-only sends nothing."""
    counts = plan.counts()
    transfers = sum(site == "cloud" for site, _, _ in plan.stretches())
    return (
        counts.cloud_evaluated * times["cloud"]
        + counts.edge_evaluated * times["edge"]
        + counts.extrapolated * times["extrapolated"]
        + times["fixed"]
        + transfers * size * 8 / (bandwidth * 1e6)
    )
