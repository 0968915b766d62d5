from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from ecdiff import EdgeCloudPipeline, pairs
from ecdiff.bench.__main__ import app
from ecdiff.bench.quality import generate, rows, seconds_of
from ecdiff.plan import cloud_only, edge_only
from ecdiff.request import Request


@pytest.mark.parametrize("steps", [10, 20, 50, 100])
def test_every_row_is_a_plan_of_that_many_steps(steps: int) -> None:
    assert {len(str(plan)) for plan in rows(steps).values()} == {steps}


def test_a_batch_draws_what_the_pipeline_draws(pair_folder: Path) -> None:
    pair = pairs.resolve(str(pair_folder))
    device, dtype = pairs.place("cpu")
    families = {site: pairs.load(pair, site, device, dtype) for site in ("cloud", "edge")}
    texts = ["a red house", "a blue fish", "a"]
    requests = [Request(t, 32, 32, 7.5, seeds=(j,)) for j, t in enumerate(texts)]
    plan = rows(10)["HybridSD, 5 edge steps"]
    pictures = generate(families, requests, plan, batch=2)
    pipe = EdgeCloudPipeline.from_pretrained(pair)
    for j, text in enumerate(texts):
        alone = pipe(text, seed=j, plan=plan, guidance_scale=7.5, output_type="pt").images
        assert torch.allclose(pictures[j : j + 1], alone, atol=1e-4)


def test_a_plan_costs_what_its_steps_cost() -> None:
    times = {"cloud": 3.0, "edge": 1.0, "extrapolated": 0.0, "fixed": 0.5}
    assert seconds_of(cloud_only(50), times) == 150.5
    assert seconds_of(edge_only(50), times) == 50.5
    assert seconds_of(rows(50)["HybridSD, 10 edge steps"], times) == 130.5


@pytest.mark.parametrize("command", [["overhead", "--rounds", "1"], ["quality", "--limit", "2"]])
def test_the_last_line_is_json(pair_folder: Path, command: list[str]) -> None:
    result = CliRunner().invoke(app, [*command, "--pair", str(pair_folder), "--steps", "10"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1])


def test_a_file_without_prompts_is_refused(pair_folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "prompts.txt"
    empty.write_text("\n \n")
    result = CliRunner().invoke(
        app, ["quality", "--prompts", str(empty), "--pair", str(pair_folder)]
    )
    assert result.exit_code == 2
    assert "holds no prompt" in result.stderr
