"""What must hold of every family, as functions that a family's own tests call."""

from __future__ import annotations

from typing import Any

import torch
from conftest import finish
from torch import Tensor

from ecdiff.handoff import pack, unpack
from ecdiff.plan import Phase, Plan, cloud_only, split
from ecdiff.request import Request
from ecdiff.trajectory import Trajectory, advance, denoise, snapshot

PRINT = "f" * 64
EXTRAPOLATED = Plan(
    12, (Phase("cloud", 8, 3, 2, 0.3), Phase("cloud", 4, 2, 1, 0.5, "reuse", guidance=2.0))
)


def whole_state(model: Any, t: Trajectory) -> dict[str, Any]:
    """Everything that the rest of the run depends on."""
    tensors = dict(model.scheduler_state(t)) | {"latents": t.latents} | t.history._asdict()
    tensors["generator"] = t.generator.get_state()
    return tensors | {"step": t.step, "draws": t.draws, "seed": t.seed}


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        same = torch.equal(a[name], b[name]) if isinstance(a[name], Tensor) else a[name] == b[name]
        assert same, name


def check_checkpoints(model: Any, request: Request, draws: bool, plan: Plan = EXTRAPOLATED) -> None:
    """From every step, through bytes, one step on and to the end: bit for bit the uncut run."""
    conditioning = model.encode(request)
    t = model.begin(request, plan, request.seeds[0], conditioning)
    payloads, states = [], []
    for _ in denoise(model, [t], plan.steps):
        payloads.append(pack("checkpoint", PRINT, [snapshot(model, t)]))
        states.append(whole_state(model, t))
    assert (t.draws > 1) == draws
    for step in range(1, plan.steps):
        (state,) = unpack(payloads[step - 1], PRINT).snapshots
        resumed = model.begin(request, plan, state.seed, conditioning, state)
        if draws:
            assert torch.equal(resumed.generator.get_state(), states[step - 1]["generator"])
        else:
            resumed.generator = t.generator  # nothing is ever drawn from it
        advance(model, [resumed])
        assert_same(whole_state(model, resumed), states[step])
        for _ in denoise(model, [resumed], plan.steps):
            pass
        assert_same(whole_state(model, resumed), states[-1])


def check_batch(model: Any, requests: list[Request]) -> None:
    """Members at other steps, guidances, schedulers and plans: each as if alone."""
    plans = [split(8, 8, 3, 2, 0.5), cloud_only(6), cloud_only(7), cloud_only(5)]
    members = [
        model.begin(r, plan, r.seeds[0], model.encode(r))
        for r, plan in zip(requests, plans, strict=False)
    ]
    for lead in (0, 0, 0, 0, 1):  # the first goes ahead into its extrapolated steps
        advance(model, [members[lead]])
    assert len({m.step for m in members}) > 1
    while due := [m for m in members if not m.finished]:
        advance(model, due)
    for member in members:
        (alone,) = finish(model, member.request, member.plan)
        assert (member.latents - alone.latents).abs().max() <= 1e-4
        pictures = model.decode(torch.cat([member.latents, alone.latents]))
        assert (pictures[0] - pictures[1]).abs().max() <= 1e-4
