from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ecdiff import pairs, planfile
from ecdiff.errors import InputError
from ecdiff.pairs import Pair
from ecdiff.plan import PlanDefaults, plan_for, split
from ecdiff.planfile import PlanFile

FOUND = PlanDefaults(3, 2, 0.4, 7, steps=10)


@pytest.fixture
def content(pair: Pair) -> dict[str, Any]:
    tuned = {"seed": 1}
    plan = split(10, 7, 3, 2, 0.4)
    return PlanFile(pair.name, pairs.fingerprint(pair), FOUND, plan, tuned).to_json()


def write(tmp_path: Path, content: object) -> Path:
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(content))
    return file


def test_it_is_read_back_as_the_plan_it_says(
    pair: Pair, tmp_path: Path, content: dict[str, Any]
) -> None:
    file = write(tmp_path, content)
    found = planfile.read(file, pair)
    assert found.to_json() == content
    named = planfile.parameters(file, pair, 10)
    assert plan_for("ec-diff", 10, pair.defaults, **named) == found.plan
    tuned = planfile.with_plan(pair, file)
    assert plan_for("ec-diff", 10, tuned.defaults) == found.plan
    assert pairs.fingerprint(tuned) == pairs.fingerprint(pair)


def test_without_extrapolation_it_is_hybrid_sd(
    pair: Pair, tmp_path: Path, content: dict[str, Any]
) -> None:
    plan = split(10, 8)
    content |= {"parameters": {"warmup": 0, "skip": 0, "smoothing": 1.0, "handoff_step": 8}}
    content["parameters"]["steps"] = 10
    file = write(tmp_path, content | {"plan": plan.to_json()})
    named = planfile.parameters(file, pair, 10)
    assert plan_for("ec-diff", 10, pair.defaults, **named) == plan


def test_another_pair_or_step_count_is_refused(
    pair: Pair, tmp_path: Path, content: dict[str, Any]
) -> None:
    file = write(tmp_path, content)
    with pytest.raises(InputError, match=r"10 steps, not 50.*--steps 10"):
        planfile.parameters(file, pair, 50)
    with pytest.raises(InputError, match="was tuned for pair"):
        planfile.read(file, replace(pair, revision="another"))


@pytest.mark.parametrize(
    "change",
    [
        {"parameters": {"warmup": 3}},
        {"plan": {"steps": 10, "phases": [{"site": "cloud", "steps": 10}]}},
        {"format": 2},
        {"more": 1},
    ],
)
def test_what_is_no_plan_file_is_refused(
    pair: Pair, tmp_path: Path, content: dict[str, Any], change: dict[str, Any]
) -> None:
    with pytest.raises(InputError):
        planfile.read(write(tmp_path, content | change), pair)
    with pytest.raises(InputError, match="cannot read the plan file"):
        planfile.read(tmp_path / "none.json", pair)
