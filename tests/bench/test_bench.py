"""The benchmarks on a tiny pair, from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from ecdiff import EdgeCloudPipeline, pairs
from ecdiff.bench import network
from ecdiff.bench.__main__ import app
from ecdiff.bench.ablation import sweep, table_2
from ecdiff.bench.adherence import adherence
from ecdiff.bench.network import crossings
from ecdiff.bench.quality import rows
from ecdiff.bench.suite import BENCHMARKS
from ecdiff.measure import generate, seconds_of
from ecdiff.plan import cloud_only, edge_only, split
from ecdiff.request import Request

PLAN = split(20, 15, 7, 2, 0.3)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.csv"
    file.write_text("id,prompt\n1,a red house\n2,a blue fish\n3,a\n")
    return file


def invoke(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize("steps", [10, 20, 50, 100])
def test_every_row_is_a_plan(steps: int) -> None:
    plan = split(steps, round(0.72 * steps), 7, 2, 0.3)
    chosen = rows(steps, plan, tuned=True)
    names = [row.name for row in chosen]
    assert len(set(names)) == len(names)
    for row in chosen:
        if not row.name.startswith("cloud,"):
            assert len(str(row.plan)) == steps, row.name
    evaluated = plan.counts().cloud_evaluated
    assert f"cloud, {evaluated} DDIM steps" in names


def test_the_sceptics_rows_cost_what_they_say() -> None:
    chosen = {row.name: row.plan.counts() for row in rows(50, split(50, 36, 7, 2, 0.3), True)}
    ours = chosen["EC-Diff, tuned: p7 k2 alpha 0.3 s36"]
    assert chosen["noise reuse, p7 k2 alpha 0.3 s36"] == ours
    for how in ("held", "extrapolated"):
        coasting = chosen[f"EC-Diff's lead, coasting from s37, {how}"]
        assert coasting.edge_evaluated == 0
        assert ours.cloud_evaluated <= coasting.cloud_evaluated <= ours.cloud_evaluated + 2
        assert chosen[f"coasting from s40, {how}"].cloud_evaluated == 40


def test_a_sweep_changes_one_parameter() -> None:
    lead = PLAN.phases[0]
    own = {"p": lead.warmup, "k": lead.skip, "alpha": lead.smoothing, "s": lead.steps}
    points = list(sweep(PLAN))
    assert {name for name, _, _ in points} == set(own)
    for name, value, plan in points:
        p = plan.phases[0]
        now = {"p": p.warmup, "k": p.skip, "alpha": p.smoothing, "s": p.steps}
        assert now == own | {name: value}
    names = [row.name for row in table_2(PLAN)]
    assert names == ["EC-Diff", "corrected twice", "without alpha", "Euler", "DPM++ 2M"]


def test_a_batch_draws_what_the_pipeline_draws(pair_folder: Path) -> None:
    pair = pairs.resolve(str(pair_folder))
    device, dtype = pairs.place("cpu")
    families = {site: pairs.load(pair, site, device, dtype) for site in ("cloud", "edge")}
    texts = ["a red house", "a blue fish", "a"]
    requests = [Request(t, 32, 32, 7.5, seeds=(j,)) for j, t in enumerate(texts)]
    plan = split(10, 5)
    pictures = generate(families, requests, plan, batch=2)
    pipe = EdgeCloudPipeline.from_pretrained(pair)
    for j, text in enumerate(texts):
        alone = pipe(text, seed=j, plan=plan, guidance_scale=7.5, output_type="pt").images
        assert torch.allclose(pictures[j : j + 1], alone, atol=1e-4)


def test_a_plan_costs_what_its_steps_cost() -> None:
    times = {"cloud": 3.0, "edge": 1.0, "extrapolated": 0.0, "fixed": 0.5}
    assert seconds_of(cloud_only(50), times) == 150.5
    assert seconds_of(edge_only(50), times) == 50.5
    assert seconds_of(split(50, 40), times) == 130.5


def test_adherence_knows_a_right_picture_from_a_wrong_one() -> None:
    from ecdiff.reference.data import picture_batch
    from ecdiff.reference.scenes import caption, held_out_scenes

    scenes = held_out_scenes(8)
    pictures, texts = (picture_batch(scenes) + 1) / 2, [caption(scene) for scene in scenes]
    right = adherence(pictures, texts)
    wrong = adherence(pictures.flip(0), texts)
    assert sum(v or 0 for v in right) >= 6
    assert sum(v or 0 for v in wrong) <= 2
    assert adherence(pictures[:2], ["a thought", texts[1]])[0] is None


def test_crossings_lie_between_the_points_that_changed_places() -> None:
    points = [
        {"bandwidth": 10.0, "round_trip": trip, "seconds": {"EC-Diff": 1 + 4 * trip, "edge": 1.4}}
        for trip in (0.0, 0.05, 0.15, 0.3)
    ]
    [crossing] = crossings(points)
    assert crossing == {"bandwidth": 10.0, "with": "edge", "round_trip": 0.1}
    points = [  # 2 Mbit of handoff
        {"bandwidth": b, "round_trip": 0.0, "seconds": {"EC-Diff": 1 + 2 / b, "edge": 1.5}}
        for b in (100.0, 10.0, 1.0)
    ]
    [crossing] = crossings(points)
    assert crossing == {"bandwidth": 4.0, "with": "edge", "round_trip": 0.0}


@pytest.mark.parametrize("name", [n for n in BENCHMARKS if n != "network"])
def test_a_benchmark_prints_a_table_and_one_line_of_json(
    pair_folder: Path, prompts: Path, tmp_path: Path, name: str
) -> None:
    out = invoke(
        *(name, "--pair", pair_folder, "--prompts", prompts, "--column", "prompt", "--limit", 2),
        *("--steps", 10, "--guidance", 3, "--run", tmp_path / "run"),
    )
    assert out.exit_code == 0, out.output
    result = json.loads(out.stdout.splitlines()[-1])
    assert result["benchmark"] == name
    assert result["prompts"] == 2
    assert [found["guidance"] for found in result["results"]] == [3]
    assert json.loads((tmp_path / "run" / f"{name}.json").read_text()) == result
    assert (tmp_path / "run" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_overhead_ends_in_a_line_of_json(pair_folder: Path) -> None:
    out = invoke("overhead", "--rounds", 1, "--pair", pair_folder, "--steps", 10)
    assert out.exit_code == 0, out.output
    assert json.loads(out.stdout.splitlines()[-1])


def test_the_report_resumes_and_says_the_same_again(
    pair_folder: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "BANDWIDTHS", (1.0, 100.0))
    monkeypatch.setattr(network, "ROUND_TRIPS", (0.0, 0.4))
    monkeypatch.setattr(network, "ROUNDS", 1)
    folder = tmp_path / "results"
    words = [
        *("report", "--pair", pair_folder, "--prompts", prompts, "--limit", 2, "--steps", 10),
        *("--run", tmp_path / "run", "--out", folder),
    ]
    first = invoke(*words)
    assert first.exit_code == 0, first.output
    names = {path.name for path in folder.iterdir()}
    expected = {"report.md", *(f"{n}.{end}" for n in BENCHMARKS for end in ("json", "png"))}
    assert names == expected
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    report = before["report.md"].decode()
    assert "29.51" in report  # the paper's, beside ours
    assert "Table 1's order" in report
    links = json.loads(before["network.json"])["results"][0]["points"]
    near, far = links[2]["seconds"], links[3]["seconds"]
    assert far["EC-Diff"] > near["EC-Diff"] + 0.4  # two round trips; the machine may be busy

    def no_model(*_: Any) -> None:
        raise AssertionError("everything is known")

    monkeypatch.setattr(pairs, "load", no_model)
    (folder / "reading.md").write_text("What a person says of it.")
    again = invoke(*words)
    assert again.exit_code == 0, again.output
    for path in folder.glob("*.json"):
        assert path.read_bytes() == before[path.name]
    after = (folder / "report.md").read_text()
    assert after.replace("What a person says of it.\n\n", "") == report


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--prompts", "empty.txt"], "holds no prompt"),
        (["--prompts", "prompts.csv", "--column", "caption"], "choose --column from id, prompt"),
        (["--prompts", "prompts.csv", "--lpips", "vgg"], "LPIPS (vgg) has no weights here"),
        (["--prompts", "prompts.csv", "--plan", "none.json"], "cannot read the plan file"),
        ([], "pass --prompts"),
        (["--prompts", "prompts.csv", "--guidance", "-1"], "guidance is -1"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    pair_folder: Path,
    prompts: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(prompts.parent)
    monkeypatch.setenv("TORCH_HOME", str(prompts.parent))
    Path("empty.txt").write_text("\n \n")
    out = invoke("quality", "--pair", pair_folder, *words)
    assert out.exit_code == 2
    assert said in out.stderr
    assert len(out.stderr.splitlines()) == 1
