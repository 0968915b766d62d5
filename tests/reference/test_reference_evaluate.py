"""The evaluation: intervals hold the mean, late steps are judged by closeness or by detail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ecdiff import pairs
from ecdiff.reference.data import picture_batch
from ecdiff.reference.evaluate import LATE, LATE_PLANS, STEPS, bars
from ecdiff.reference.figures import arguments, estimate, late, noise_error, with_judge
from ecdiff.reference.models import WEIGHTS, load_pipeline
from ecdiff.reference.scenes import held_out_scenes


def test_an_interval_holds_the_mean_and_narrows_with_more_values() -> None:
    g = torch.Generator().manual_seed(1)
    few, many = torch.randn(50, generator=g), torch.randn(5000, generator=g)
    widths = []
    for values in (few, many):
        found = estimate(values)
        low, high = found["interval"]
        assert low < found["mean"] < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 5


def test_the_nearer_picture_gains() -> None:
    g = torch.Generator().manual_seed(2)
    cloud = torch.rand(6, 3, 32, 32, generator=g)
    noise = torch.randn(cloud.shape, generator=g)
    drawn = {"cloud": cloud, "finish": cloud + 0.01 * noise, "coast": cloud + 0.1 * noise}
    gain = late(drawn)["gain_db"]
    assert abs(gain["mean"] - 20) < 0.1


def test_coasting_evaluates_the_cloud_up_to_the_handoff_and_nothing_after() -> None:
    counts = LATE_PLANS["coast"].counts()
    assert (counts.cloud_evaluated, counts.edge_evaluated) == (LATE, 0)
    assert counts.extrapolated == STEPS - LATE
    assert LATE_PLANS["finish"].counts().cloud_evaluated == LATE


def _result(gain: float, finish: float, coast: float) -> dict[str, Any]:
    right = {
        name: {"mean": 100.0}
        for name in (
            *("object", "colour", "background", "size, where said"),
            *("two: objects", "two: all three", "two: the whole prompt"),
        )
    }
    found = {"finish": {"detail": {"mean": finish}}, "coast": {"detail": {"mean": coast}}}
    return {
        "vae_psnr_db": {"mean": 32.0},
        "vae_ssim": {"mean": 0.96},
        "renders": right,
        "cloud": right,
        "edge": right | {"two: the whole prompt": {"mean": 90.0}},
        "handoff": right,
        "step_ratio": 0.4,
        "megabytes": 30.0,
        "late": {"3": found | {"gain_db": {"mean": gain}}},
    }


def test_late_steps_hold_by_closeness_or_by_detail() -> None:
    for gain, finish, coast, holds in (
        (2.5, 0.5, 0.9, True),
        (1.0, 0.95, 0.75, True),
        (1.0, 0.95, 0.85, False),
        (1.0, 0.85, 0.75, False),
    ):
        found = bars(_result(gain, finish, coast))
        assert found[-1]["holds"] is holds
        assert all(bar["holds"] for bar in found[:-1])


def test_the_noise_error_of_few_scenes_ignores_the_pictures_behind_them() -> None:
    pipe, one, two = load_pipeline(), held_out_scenes(2), held_out_scenes(2, things=2)
    alone = noise_error(pipe, picture_batch(one), one)
    assert noise_error(pipe, picture_batch([*one, *two]), one) == alone


def test_a_run_without_a_classifier_is_judged_by_the_shipped_one(tmp_path: Path) -> None:
    assert with_judge(tmp_path, WEIGHTS) == WEIGHTS
    (tmp_path / "classifier").mkdir()
    assert with_judge(tmp_path, WEIGHTS) == tmp_path


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--prompts", "0"], "0: say 1 or more"),
        (["--weights", "/nowhere"], "/nowhere holds no trained pair"),
    ],
)
def test_bad_input_is_one_line(
    given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = arguments("evaluate", None, pairs.resolve("reference"), WEIGHTS, ("--grid", ""))
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(given)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
