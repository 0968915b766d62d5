from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from ecdiff.measure import generate, step_times
from ecdiff.plan import Plan, cloud_only, edge_only, split
from ecdiff.quality import psnr, ssim
from ecdiff.tune.cache import Cache
from ecdiff.tune.evaluate import Evaluator
from tests.conftest import a_request, unet_rows

STEPS, BATCH = 10, 2
TEXTS = ["a red house", "a blue fish", "a big fish in the snow"]


@pytest.fixture
def families(cloud_model: Any, edge_model: Any) -> Any:
    return {"cloud": cloud_model, "edge": edge_model}


def requests(scheduler: str = "ddim") -> list[Any]:
    return [a_request(prompt=t, seeds=(j,), scheduler=scheduler) for j, t in enumerate(TEXTS)]


def evaluator(families: Any, folder: Path, scheduler: str = "ddim", **facts: Any) -> Evaluator:
    cache = Cache(folder / "cache", facts)
    return Evaluator(families, requests(scheduler), STEPS, range(6, 9), cache, BATCH)


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "dpm++"])
def test_shared_steps_change_no_bit(families: Any, tmp_path: Path, scheduler: str) -> None:
    shared = evaluator(families, tmp_path, scheduler)
    plans = [split(STEPS, s, 3, k, 0.3) for k in (1, 2) for s in (7, STEPS, 8, 6)]
    plans += [cloud_only(STEPS), split(STEPS, 8), split(STEPS, 5), edge_only(STEPS)]
    for plan in plans:
        pictures, wall = shared.draw(plan)
        assert torch.equal(pictures, generate(families, requests(scheduler), plan, BATCH)), plan
        assert wall > 0


def test_one_cloud_run_serves_every_handoff(families: Any, tmp_path: Path) -> None:
    shared = evaluator(families, tmp_path)
    shared.measure(cloud_only(STEPS))
    with unet_rows(families["cloud"]) as rows:
        for s in (8, 6, 7):
            shared.measure(split(STEPS, s, 3, 1, 0.3))
    evaluated = split(STEPS, 8, 3, 1, 0.3).counts().cloud_evaluated
    assert len(rows) == evaluated * 2  # batches


def test_what_is_measured_is_against_cloud_only(families: Any, tmp_path: Path) -> None:
    plan = split(STEPS, 6, 3, 2, 0.3)
    found = evaluator(families, tmp_path).measure(plan)
    whole, pictures = (generate(families, requests(), p, BATCH) for p in (cloud_only(STEPS), plan))
    assert found.ssim == pytest.approx(float(ssim(pictures, whole).mean()))
    assert found.psnr == pytest.approx(float(psnr(pictures, whole).mean()))
    assert evaluator(families, tmp_path).measure(cloud_only(STEPS)).ssim == 1.0


def test_a_second_search_asks_no_network(families: Any, tmp_path: Path) -> None:
    plan = split(STEPS, 6, 3, 2, 0.3)
    first = evaluator(families, tmp_path, seed=1)
    kept, curve = first.measure(plan), first.curve
    with unet_rows(families["cloud"]) as cloud, unet_rows(families["edge"]) as edge:
        again = evaluator(families, tmp_path, seed=1)
        assert (again.measure(plan), again.curve) == (kept, curve)
        assert cloud == edge == []
        evaluator(families, tmp_path, seed=2).measure(plan)
        assert cloud


def test_the_curve_is_the_change_of_the_guided_noise(families: Any, tmp_path: Path) -> None:
    curve = evaluator(families, tmp_path).curve
    assert len(curve.mean) == len(curve.deviation) == STEPS - 1
    family = families["cloud"]
    changes = []
    for request in requests():
        plan = cloud_only(STEPS)
        t = family.begin(request, plan, request.seeds[0], family.encode(request))
        noises = []
        while not t.finished:
            noises.append(family.predict([t]))
            family.step(t, noises[-1])
            t.step += 1
        changes.append([float((b - a).norm() / a.norm()) for a, b in pairwise(noises)])
    expected = torch.tensor(changes)
    assert torch.allclose(torch.tensor(curve.mean), expected.mean(0), rtol=1e-3)
    assert torch.allclose(torch.tensor(curve.deviation), expected.std(0, correction=0), rtol=1e-2)


def test_a_plan_that_equals_another_shares_its_measurement(families: Any, tmp_path: Path) -> None:
    shared = evaluator(families, tmp_path)
    plan = split(STEPS, 7, 3, 2, 0.3)
    assert shared.measure(plan) == shared.measure(Plan.from_json(plan.to_json()))


def test_step_times_have_every_part(families: Any) -> None:
    times = step_times(families, a_request(), rounds=3)
    assert set(times) == {"cloud", "edge", "extrapolated", "fixed"}
    assert times["cloud"] > times["extrapolated"] > 0
