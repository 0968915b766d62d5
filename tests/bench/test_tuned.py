"""The report with the result of `ecdiff tune`."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ecdiff import pairs
from ecdiff.bench import report, suite, tuned
from ecdiff.bench.setup import Asked
from ecdiff.cli import app
from ecdiff.errors import InputError
from ecdiff.plan import split

STEPS = 10
TIMES = {"cloud": 3.0, "edge": 1.0, "extrapolated": 0.01, "fixed": 0.5}


@pytest.fixture(scope="module")
def searched(pair_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of prompts, and the folder of a search on them."""
    folder = tmp_path_factory.mktemp("searched")
    (folder / "times.json").write_text(json.dumps(TIMES))
    (folder / "prompts.txt").write_text("a red house\na blue fish\n")
    words = [
        *("tune", "--pair", pair_folder, "--prompts", folder / "prompts.txt", "--steps", STEPS),
        *("--step-times", folder / "times.json", "--out", folder / "tune", "--json"),
    ]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def asked(pair_folder: Path, searched: Path, tmp_path: Path) -> Asked:
    """A benchmark with the plan of a copy of that search."""
    shutil.copytree(searched, tmp_path, dirs_exist_ok=True)
    return Asked(
        str(pair_folder),
        tmp_path / "prompts.txt",
        limit=1,
        guidance=[3.0],
        steps=STEPS,
        plan=tmp_path / "tune" / "plan.json",
        run=tmp_path / "run",
    )


def write(asked: Asked, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The report of Table 1 alone."""
    monkeypatch.setattr(suite, "BENCHMARKS", {"quality": suite.BENCHMARKS["quality"]})
    return report.write(asked, folder, lambda text: None).read_text()


def without_ec_diff(plan: Path) -> None:
    """Make the search's result what it is where no plan of EC-Diff keeps the floor."""
    file: dict[str, Any] = json.loads(plan.read_text())
    file["parameters"] |= {"warmup": 0, "skip": 0, "smoothing": 1.0, "handoff_step": 8}
    plan.write_text(json.dumps(file | {"plan": split(STEPS, 8).to_json()}))
    found = json.loads((plan.parent / "report.json").read_text())
    (plan.parent / "report.json").write_text(json.dumps(found | {"best": None}))


def test_the_tuned_plan_is_in_the_report(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked.plan is not None
    page = write(asked, tmp_path / "results", monkeypatch)
    found = json.loads((asked.plan.parent / "report.json").read_text())
    kept = tmp_path / "results" / "tune"
    assert (kept / "plan.json").read_bytes() == asked.plan.read_bytes()
    assert not list(kept.glob("*.sqlite"))
    assert len(list(kept.glob("*.png"))) == 3
    assert "(tune/report.md)" in page
    assert f"{found['printed']['value']:.4f}" in page
    if found["best"]:
        assert "EC-Diff, tuned: p" in page


def test_without_a_plan_of_ec_diff_the_default_is_tested(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked.plan is not None
    without_ec_diff(asked.plan)
    assert not tuned.extrapolates(asked.plan, pairs.resolve(asked.pair))
    page = write(asked, tmp_path / "results", monkeypatch)
    assert "**no** plan of EC-Diff keeps the quality floor" in page
    assert "EC-Diff, the default: p" in page


def test_a_plan_without_its_search_is_refused(asked: Asked, tmp_path: Path) -> None:
    assert asked.plan is not None
    alone = tmp_path / "plan.json"
    alone.write_bytes(asked.plan.read_bytes())
    with pytest.raises(InputError, match="not what ecdiff tune wrote"):
        report.write(replace(asked, plan=alone), tmp_path / "results", lambda text: None)
