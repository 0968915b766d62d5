from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ecdiff.errors import InputError
from ecdiff.measure import handoff_bytes, read_step_times, seconds_of
from ecdiff.plan import cloud_only, edge_only, split
from tests.conftest import a_request

TIMES = {"cloud": 3.0, "edge": 1.0, "extrapolated": 0.1, "fixed": 0.5}


def test_the_handoff_takes_its_bytes_over_the_bandwidth() -> None:
    def transfer(plan: Any) -> float:
        return seconds_of(plan, TIMES, 2_500_000, 10.0) - seconds_of(plan, TIMES)

    assert transfer(split(10, 6)) == pytest.approx(2.0)
    assert transfer(cloud_only(10)) == pytest.approx(2.0)  # the edge decodes
    assert transfer(edge_only(10)) == 0.0


def test_a_handoff_is_its_latents_and_history(cloud_model: Any, edge_model: Any) -> None:
    families = {"cloud": cloud_model, "edge": edge_model}
    latents = 4 * 8 * 8 * 4
    plain = handoff_bytes(families, a_request(), "0" * 64)
    assert latents < plain < latents + 4000
    multistep = handoff_bytes(families, a_request(scheduler="dpm++"), "0" * 64)
    assert multistep >= plain + latents


def test_step_times_are_read_back(tmp_path: Path) -> None:
    file = tmp_path / "times.json"
    file.write_text(json.dumps(TIMES))
    assert read_step_times(file) == TIMES


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"cloud": 1, "edge": 1, "extrapolated": 0}',
        json.dumps(TIMES | {"more": 1.0}),
        json.dumps(TIMES | {"cloud": -1.0}),
        json.dumps(TIMES | {"cloud": "fast"}),
        json.dumps(TIMES | {"cloud": float("nan")}),
    ],
)
def test_what_is_not_step_times_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "times.json"
    file.write_text(text)
    with pytest.raises(InputError, match=r"times\.json"):
        read_step_times(file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read step times"):
        read_step_times(tmp_path / "none.json")
