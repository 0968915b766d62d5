"""Drawing many plans at once: the same pictures, with fewer network calls."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ecdiff.bench import deepcache
from ecdiff.bench.error import path
from ecdiff.bench.quality import rows
from ecdiff.bench.robustness import perturbed
from ecdiff.drawer import Drawer
from ecdiff.measure import generate
from ecdiff.plan import Phase, Plan, cloud_only, split
from tests.conftest import a_request, unet_rows

REQUESTS = [a_request(prompt=p, seeds=(j,)) for j, p in enumerate(("a red house", "a fish"))]
STEPS = 20


@pytest.fixture
def families(cloud_model: Any, edge_model: Any) -> dict[str, Any]:
    return {"cloud": cloud_model, "edge": edge_model}


def test_every_row_draws_what_its_plan_draws_alone(families: dict[str, Any]) -> None:
    chosen = [
        row.plan
        for row in rows(12, split(12, 9, 4, 2, 0.3), tuned=False)
        if row.scheduler == "ddim" and row.plan.steps == 12
    ]
    assert len(chosen) >= 10
    alone = {plan: generate(families, REQUESTS, plan) for plan in chosen}
    for plans in (chosen, chosen[::-1]):
        drawer = Drawer(families, REQUESTS, plans)
        for plan in plans:
            assert torch.equal(drawer.pictures(plan), alone[plan]), plan


@pytest.mark.parametrize("scheduler", ["euler", "dpm++"])
def test_other_schedulers_share_steps_too(families: dict[str, Any], scheduler: str) -> None:
    requests = [a_request(scheduler=scheduler)]
    plans = [cloud_only(12), split(12, 9), split(12, 9, 4, 2, 0.3), split(12, 6, 4, 2, 0.3)]
    drawer = Drawer(families, requests, plans)
    for plan in plans:
        assert torch.equal(drawer.pictures(plan), generate(families, requests, plan))


def test_shared_steps_are_done_once(families: dict[str, Any]) -> None:
    plans = [cloud_only(STEPS), split(STEPS, 16), split(STEPS, 10)]
    drawer = Drawer(families, REQUESTS, plans)
    with unet_rows(families["cloud"]) as calls:
        for plan in plans:
            drawer.pictures(plan)
    assert len(calls) == STEPS
    leads = [split(STEPS, s, 5, 2, alpha) for alpha in (0.2, 0.4) for s in (12, 17)]
    drawer = Drawer(families, REQUESTS, leads)
    with unet_rows(families["cloud"]) as calls:
        for plan in leads:
            drawer.pictures(plan)
    lead = split(STEPS, 17, 5, 2).counts().cloud_evaluated
    assert len(calls) == lead + (lead - 5)  # the second alpha begins after the warm-up


def test_coasting_holds_or_goes_on(families: dict[str, Any]) -> None:
    """No network after s: the noise of the last evaluated step is all there is."""
    held = Plan(STEPS, (Phase("cloud", STEPS, 16, STEPS, rule="reuse"),))
    on = Plan(STEPS, (Phase("cloud", STEPS, 16, STEPS),))
    assert str(held) == str(on) == "C" * 16 + "x" * 4
    drawer = Drawer(families, REQUESTS, [held, on])
    with unet_rows(families["cloud"]) as calls:
        a, b = drawer.pictures(held), drawer.pictures(on)
    assert not torch.equal(a, b)
    assert len(calls) == 2 * 16


def test_correcting_twice_evaluates_two_steps_a_cycle() -> None:
    phase = Phase("cloud", 12, 3, 2, 0.3, corrections=2)
    assert str(Plan(12, (phase,))) == "CCCxxCCxxCCx"


def test_a_shallow_call_on_the_kept_features_equals_a_whole_one(cloud_model: Any) -> None:
    unet = cloud_model.unet
    assert deepcache.fits(unet)
    g = torch.Generator().manual_seed(0)
    x, text = torch.randn((2, 4, 8, 8), generator=g), torch.randn((2, 16, 16), generator=g)
    t = torch.tensor([500.0, 500.0])
    cached = deepcache.DeepCache(unet, interval=2)
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    hook = unet.down_blocks[1].register_forward_hook(count)
    with torch.no_grad():
        whole = cached(x, t, encoder_hidden_states=text)[0]
        shallow = cached(x, t, encoder_hidden_states=text)[0]
        other = unet(x, t - 20, encoder_hidden_states=text, return_dict=False)[0]
        cached(x, t - 20, encoder_hidden_states=text)
        stale = cached(x, t - 40, encoder_hidden_states=text)[0]
    hook.remove()
    assert calls == 3  # of five: the deeper block is left out of the shallow ones
    assert torch.allclose(whole, shallow, atol=1e-6)
    assert not torch.equal(stale, other)


def test_deepcache_draws_close_to_the_cloud(families: dict[str, Any]) -> None:
    whole = generate(families, REQUESTS, cloud_only(STEPS))
    cached = deepcache.draw(families, REQUESTS, STEPS)
    assert not torch.equal(whole, cached)
    assert (whole - cached).abs().mean() < 0.05


def test_noise_after_each_step_moves_the_picture_by_its_size(families: dict[str, Any]) -> None:
    whole = generate(families, REQUESTS, cloud_only(10))
    far = [
        (perturbed(families["cloud"], REQUESTS, 10, share) - whole).abs().mean().item()
        for share in (0.0, 0.005, 0.05)
    ]
    assert far[0] < 1e-6
    assert far[0] < far[1] < far[2]


def test_a_path_ends_where_the_plan_ends(families: dict[str, Any]) -> None:
    plan = split(10, 7, 3, 2, 0.3)
    steps = path(families, REQUESTS, plan)
    assert steps.shape[:2] == (10, 2)
    assert torch.equal(families["edge"].decode(steps[-1]), generate(families, REQUESTS, plan))
    assert torch.equal(steps[:3], path(families, REQUESTS, cloud_only(10))[:3])
