"""`ecdiff tune` as it is called, on a tiny pair, and what takes its plan file."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from ecdiff import pairs, planfile
from ecdiff.cli import app
from ecdiff.plan import Plan
from ecdiff.tune import command, plots
from ecdiff.tune.evaluate import Evaluator
from tests.conftest import make_pair, running

STEPS = 10
TIMES = {"cloud": 3.0, "edge": 1.0, "extrapolated": 0.01, "fixed": 0.5}
PROMPTS = ["a red house", "a blue fish", "a big fish", "a house in the snow"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "times.json").write_text(json.dumps(TIMES))
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    return folder


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def tune(pair_folder: Path, inputs: Path, out: Path, *words: object) -> Result:
    usual = ["--prompts", inputs / "prompts.txt", "--limit", 2, "--steps", STEPS, "--out", out]
    times = ["--step-times", inputs / "times.json"]
    return call("tune", "--pair", pair_folder, *usual, *times, "--json", *words)


@pytest.fixture(scope="module")
def tuned(pair_folder: Path, inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tuned") / "new"
    result = tune(pair_folder, inputs, out, "--exhaustive")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) | {"x": 0}
    return out


def assert_refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    assert len(result.stderr.strip().splitlines()) == 1
    for word in words:
        assert word in result.stderr


def read(out: Path, name: str) -> Any:
    return json.loads((out / name).read_text())


def test_it_writes_a_plan_a_report_and_figures(tuned: Path, pair_folder: Path) -> None:
    file, report = read(tuned, "plan.json"), read(tuned, "report.json")
    assert file["fingerprint"] == pairs.fingerprint(pairs.resolve(str(pair_folder)))
    best = report["best"] or report["methods"]["HybridSD, 2 edge steps"]
    assert str(Plan.from_json(file["plan"])) == best["plan"]
    assert best["ssim"] >= report["floor"]
    assert report["step_seconds"] == read(tuned, "step-times.json") == TIMES
    text = (tuned / "report.md").read_text()
    for name in re.findall(r"\]\((\S+\.png)\)", text):
        assert (tuned / name).read_bytes().startswith(b"\x89PNG")
    assert text.count(".png)") == 3


def test_the_grid_holds_nothing_better_than_was_said(tuned: Path) -> None:
    report = read(tuned, "report.json")
    grid = [row for row in report["evaluated"] if row["handoff_step"] < STEPS]
    assert len(grid) == 5 * 9 * 3
    kept = [row["value"] for row in grid if row["ssim"] >= report["floor"]]
    whole = report["exhaustive"]
    assert whole["printed"]["value"] == max(row["value"] for row in grid)
    if kept:
        assert whole["best"]["value"] == max(kept)
        assert report["best"]["value"] >= 0.97 * max(kept)
    assert report["evaluations"] <= 49


def test_the_same_step_times_give_the_same_plan(
    tuned: Path, pair_folder: Path, inputs: Path, tmp_path: Path
) -> None:
    assert tune(pair_folder, inputs, tmp_path).exit_code == 0
    assert (tmp_path / "plan.json").read_text() == (tuned / "plan.json").read_text()
    one, other = (read(out, "report.json") for out in (tmp_path, tuned))
    assert one["noise_curve"] == other["noise_curve"]
    for a, b in zip(one["evaluated"], other["evaluated"], strict=False):
        assert a | {"wall": 0} == b | {"wall": 0}  # the clock's, which decides nothing here


def test_an_interrupted_search_goes_on_where_it_was(
    pair_folder: Path, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    stops = [12]  # the thirteenth plan is not drawn the first time
    draw = Evaluator.draw

    def counting(self: Evaluator, plan: Plan) -> Any:
        if len(drawn) in stops:
            stops.clear()
            raise KeyboardInterrupt
        drawn.append(str(plan.to_json()))
        return draw(self, plan)

    monkeypatch.setattr(Evaluator, "draw", counting)
    assert tune(pair_folder, inputs, tmp_path).exit_code != 0
    assert not (tmp_path / "plan.json").exists()
    first = set(drawn)
    drawn.clear()
    assert tune(pair_folder, inputs, tmp_path).exit_code == 0
    assert drawn
    assert not first & set(drawn)
    drawn.clear()
    assert tune(pair_folder, inputs, tmp_path).exit_code == 0
    assert drawn == []


def test_wall_time_and_clipping(pair_folder: Path, inputs: Path, tmp_path: Path) -> None:
    result = tune(pair_folder, inputs, tmp_path, "--clip", "--quality-floor", 0.2)
    assert result.exit_code == 0, result.output
    assert all(0 <= row["efficiency"] <= 1 for row in read(tmp_path, "report.json")["evaluated"])
    result = tune(pair_folder, inputs, tmp_path, "--measure", "wall")
    if result.exit_code:  # the tiny edge is hardly faster than the tiny cloud
        assert_refused(result, "Eq. 10")
    else:
        rows = read(tmp_path, "report.json")["evaluated"]
        assert all(row["seconds"] > row["wall"] for row in rows)


def test_generate_and_the_server_take_the_plan(
    tuned: Path, pair_folder: Path, tmp_path: Path
) -> None:
    plan, picture = tuned / "plan.json", tmp_path / "a.png"
    words = ["--pair", pair_folder, "--steps", STEPS, "--plan", plan, "--json", "--device", "cpu"]
    with running(pairs.resolve(str(pair_folder))) as server:
        result = call("generate", "a fish", *words, "--cloud", server.ws, "--out", picture)
    assert result.exit_code == 0, result.output
    parameters = read(tuned, "plan.json")["parameters"]
    used = json.loads(result.stdout)["plan"]
    assert {name: used[name] for name in parameters} == parameters
    assert picture.is_file()
    served = planfile.with_plan(pairs.resolve(str(pair_folder)), plan)
    with running(served) as server:
        [advertised] = httpx.get(f"{server.http}/v1/pairs").json()["pairs"]
        body = {"prompt": "a fish", "steps": STEPS}
        drawn = httpx.post(f"{server.http}/v1/images/generations", json=body, timeout=60).json()
    assert advertised["defaults"] == parameters
    assert drawn["plan"] == read(tuned, "plan.json")["plan"]


def test_a_plan_file_that_does_not_fit_is_refused(
    tuned: Path, pair_folder: Path, tmp_path: Path
) -> None:
    plan = tuned / "plan.json"
    here = ["generate", "a fish", "--plan", plan, "--out", tmp_path / "a.png", "--pair"]
    assert_refused(call(*here, pair_folder), "10 steps, not 50", "--steps 10")
    assert_refused(call(*here, pair_folder, "--steps", STEPS, "--skip", 2), "--plan stands for")
    assert_refused(
        call(*here, pair_folder, "--steps", STEPS, "--method", "edge"), "--plan stands for"
    )
    other = make_pair(tmp_path / "other", seed=5)
    assert_refused(call(*here, other, "--steps", STEPS), "tuned for pair", "ecdiff tune")
    assert_refused(call("serve", "--pair", other, "--plan", plan), "tuned for pair")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--steps", 5], "at least 10"),
        (["--measure", "clock"], "use steps or wall"),
        (["--bandwidth", 0], "above 0"),
        (["--quality-floor", "nan"], "quality-floor is nan"),
        (["--quality-floor", -1], "quality-floor is -1"),
        (["--step-times", "none.json"], "cannot read step times"),
        (["--prompts", "empty.txt"], "empty.txt"),
        (["--prompts", "none.txt"], "none.txt"),
        (["--prompts", "table.csv", "--column", "words"], "no column 'words'"),
        (["--out", "prompts.txt"], "another --out"),
        (["--seed", -1], "seed"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_loaded(
    pair_folder: Path,
    inputs: Path,
    tmp_path: Path,
    words: list[Any],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "table.csv").write_text("id,prompt\n1,a fish\n")
    (tmp_path / "prompts.txt").write_text("a fish")
    monkeypatch.chdir(tmp_path)

    def refuse(*args: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(pairs, "load", refuse)
    assert_refused(tune(pair_folder, inputs, tmp_path / "out", *words), said)


def test_a_pair_without_prompts_of_its_own_says_so(pair_folder: Path, tmp_path: Path) -> None:
    result = call("tune", "--pair", pair_folder, "--out", tmp_path)
    assert_refused(result, "pass --prompts FILE")


def test_without_matplotlib_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert_refused(call("tune"), "pip install 'ecdiff[report]'")


def test_the_references_prompts_are_none_of_the_benchmarks() -> None:
    from ecdiff.prompts import read_prompts

    own = command.own_prompts(64)
    assert len(own) == 64
    assert not set(own) & set(read_prompts(None, 64, None))


def test_the_pareto_front_holds_what_no_other_beats() -> None:
    places = [(1.0, 1.0), (2.0, 0.9), (1.5, 0.8), (2.0, 0.7), (3.0, 0.5), (3.0, 0.6)]
    assert plots.pareto(places) == [(1.0, 1.0), (2.0, 0.9), (3.0, 0.6)]
