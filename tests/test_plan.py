from __future__ import annotations

import itertools
import json

import pytest

from ecdiff.errors import InputError, PlanError
from ecdiff.plan import (
    METHODS,
    Counts,
    Phase,
    Plan,
    PlanDefaults,
    cloud_only,
    edge_only,
    plan_for,
    split,
)

PAPER = PlanDefaults(warmup=7, skip=2, smoothing=0.3, handoff_step=36)


def algorithm_1(p: int, k: int, s: int) -> str:
    """The marks of the paper's loop, written as the paper writes it, cut off at `s`."""
    marks = ["C"] * p
    while len(marks) < s:
        marks += ["x"] * k
        marks += ["C"]
    return "".join(marks[:s])


def test_a_cloud_phase_evaluates_the_steps_that_algorithm_1_does() -> None:
    grid = itertools.product(range(2, 10), range(1, 7), (10, 13, 50))
    for p, k, s in grid:
        phase = Phase("cloud", s, p, k, 0.3)
        assert str(Plan(s, (phase,))) == algorithm_1(p, k, s), (p, k, s)


def test_a_cycle_may_be_corrected_twice() -> None:
    twice = Phase("cloud", 12, 3, 2, 0.3, corrections=2)
    assert str(Plan(12, (twice,))) == "CCCxxCCxxCCx"
    assert Plan.from_json(Plan(12, (twice,)).to_json()).phases == (twice,)
    with pytest.raises(PlanError, match="corrections"):
        Phase("cloud", 12, 3, 2, corrections=0)


def test_without_skip_every_step_is_evaluated() -> None:
    assert str(split(50, 40)) == "C" * 40 + "E" * 10
    assert str(cloud_only(3)) == "CCC"
    assert str(edge_only(3)) == "EEE"


def test_a_plan_prints_itself() -> None:
    assert str(split(20, 15, 7, 2, 0.3)) == "CCCCCCCxxCxxCxxEEEEE"
    late = Plan(10, (Phase("cloud", 3), Phase("edge", 5, 2, 2)), start=2)
    assert str(late) == "..CCCEExxE"


def test_counts_divide_the_steps() -> None:
    assert split(20, 15, 7, 2, 0.3).counts() == Counts(9, 6, 0, 5)
    both = Plan(20, (Phase("cloud", 10, 2, 2), Phase("edge", 10, 3, 3)))
    assert str(both) == "CCxxCxxCxxEEExxxExxx"
    assert both.counts() == Counts(4, 12, 6, 4)
    for p, k, s in itertools.product((2, 7), (0, 2, 5), (7, 20, 50)):
        counts = split(50, s, p, k).counts()
        assert counts.cloud_evaluated + counts.extrapolated + counts.edge_evaluated == 50


def test_the_paper_s_best_plan_for_sdxl_computes_as_many_cloud_steps_as_it_says() -> None:
    plan = plan_for("ec-diff", 50, PAPER)
    assert plan.handoff_step == 36
    assert plan.counts() == Counts(7 + 9, 20, 0, 14)


def test_locating_steps() -> None:
    plan = Plan(10, (Phase("cloud", 3), Phase("cloud", 2, 2, 1), Phase("edge", 3)), start=2)
    assert [plan.locate(step)[1] for step in range(2, 10)] == [0, 1, 2, 0, 1, 0, 1, 2]
    assert list(plan.stretches()) == [("cloud", 2, 7), ("edge", 7, 10)]
    assert plan.stretch_at(6) == ("cloud", 7)
    assert plan.handoff_step == 7
    assert cloud_only(5).handoff_step == 5
    assert edge_only(5).handoff_step == 0
    for outside in (0, 1, 10, -1):
        with pytest.raises(PlanError, match=f"step {outside} "):
            plan.locate(outside)


def test_json_round_trip() -> None:
    plans = [plan_for(method, steps, PAPER) for method in METHODS for steps in (1, 7, 50)]
    plans.append(Plan(9, (Phase("cloud", 4, 2, 1, 0.1, "reuse", 2.5), Phase("edge", 3)), start=2))
    for plan in plans:
        assert Plan.from_json(json.dumps(plan.to_json())) == plan
        assert Plan.from_json(plan.to_json()) == plan


NONSENSE = {
    "no gradient from one step": (
        lambda: Phase("cloud", 10, 1, 2),
        r"\(p\) is 1 with skip \(k\) 2",
    ),
    "no gradient from none": (lambda: Phase("cloud", 10, 0, 1), r"\(p\) is 0"),
    "negative warm-up": (lambda: Phase("cloud", 10, -3), "-3"),
    "warm-up over the phase": (lambda: Phase("cloud", 5, 7, 2), "7 but the cloud phase has only 5"),
    "negative skip": (lambda: Phase("cloud", 10, 2, -1), r"\(k\) is -1"),
    "alpha over 1": (lambda: Phase("cloud", 10, 2, 1, 1.5), "1.5"),
    "alpha under 0": (lambda: Phase("cloud", 10, 2, 1, -0.1), "-0.1"),
    "alpha NaN": (lambda: Phase("cloud", 10, 2, 1, float("nan")), "nan"),
    "guidance NaN": (lambda: Phase("cloud", 10, guidance=float("nan")), "nan"),
    "guidance infinite": (lambda: Phase("cloud", 10, guidance=float("inf")), "inf"),
    "guidance negative": (lambda: Phase("cloud", 10, guidance=-2.0), "-2"),
    "no steps in a phase": (lambda: Phase("cloud", 0), "0"),
    "another site": (lambda: Phase("moon", 10), "'moon'"),  # type: ignore[arg-type]
    "another space": (lambda: Phase("cloud", 10, space="pixels"), "'pixels'"),
    "another rule": (lambda: Phase("cloud", 10, rule="cubic"), "'cubic'"),
    "s over T": (lambda: split(50, 51), r"\(s\) is 51 with 50"),
    "s under 0": (lambda: split(50, -1), r"\(s\) is -1"),
    "no steps": (lambda: Plan(0), "0"),
    "too few phases": (lambda: Plan(50, (Phase("cloud", 40),)), "40 steps in all"),
    "too many phases": (lambda: Plan(50, (Phase("cloud", 51),)), "51 steps in all"),
    "no phases": (lambda: Plan(50), "0 steps in all"),
    "start at the end": (lambda: Plan(5, (), 5), "step 5"),
    "start before 0": (lambda: Plan(5, (Phase("cloud", 6),), -1), "step -1"),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_is_rejected_naming_the_value(name: str) -> None:
    make, message = NONSENSE[name]
    with pytest.raises(PlanError, match=message):
        make()


GOOD = {"steps": 5, "phases": [{"site": "cloud", "steps": 5}]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (GOOD | {"stesp": 3}, "stesp"),
        (GOOD | {"phases": [{"site": "cloud", "steps": 5, "skp": 3}]}, "skp"),
        (GOOD | {"steps": "many"}, "'many'"),
        (GOOD | {"steps": 2.5}, r"2\.5"),
        (GOOD | {"phases": "CCCC"}, "'CCCC'"),
        (GOOD | {"phases": [{"site": 7, "steps": 5}]}, "7"),
        (GOOD | {"phases": [{"site": "cloud"}]}, "steps"),
        ({"phases": []}, "steps"),
        ([], r"\[\]"),
        (None, "None"),
        ("{", "JSON"),
        (b"\xff\xfe", "plan"),
        ('{"steps": 1, "phases": [{"site": "cloud", "steps": 1, "smoothing": NaN}]}', "nan"),
        (GOOD | {"steps": 6}, "5 steps in all"),
    ],
)
def test_bad_json_is_a_plan_error(data: object, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Plan.from_json(data)


def test_every_method_has_a_plan_for_every_step_count() -> None:
    for method, steps in itertools.product(METHODS, range(1, 101)):
        plan = plan_for(method, steps, PAPER)
        assert plan.steps == steps == len(str(plan))


def test_the_defaults_scale_with_the_step_count() -> None:
    assert plan_for("ec-diff", 25, PAPER).handoff_step == 18
    assert plan_for("ec-diff", 100, PAPER).handoff_step == 72
    assert str(plan_for("ec-diff", 8, PAPER)) == "CCCCCCEE"  # p = 7 is capped at s = 6
    assert plan_for("ec-diff", 50, PAPER, handoff_step=4).phases[0].warmup == 4
    assert str(plan_for("ec-diff", 50, PAPER, handoff_step=0)) == "E" * 50
    assert str(plan_for("ec-diff", 12, PAPER, handoff_step=12, warmup=3)) == "CCCxxCxxCxxC"


def test_hybrid_sd_gives_the_edge_a_fifth_of_the_steps() -> None:
    assert str(plan_for("hybrid-sd", 50, PAPER)) == "C" * 40 + "E" * 10
    assert plan_for("hybrid-sd", 50, PAPER, handoff_step=25).handoff_step == 25


@pytest.mark.parametrize("method", ["hybrid-sd", "cloud", "edge"])
@pytest.mark.parametrize("parameter", ["warmup", "skip", "smoothing"])
def test_extrapolation_parameters_belong_to_ec_diff(method: str, parameter: str) -> None:
    with pytest.raises(PlanError, match=method):
        plan_for(method, 50, PAPER, **{parameter: 0})  # type: ignore[arg-type]


def test_other_bad_methods() -> None:
    for method in ("cloud", "edge"):
        with pytest.raises(PlanError, match=f"20: method {method}"):
            plan_for(method, 50, PAPER, handoff_step=20)
    with pytest.raises(PlanError, match="'magic'"):
        plan_for("magic", 50, PAPER)
    with pytest.raises(PlanError, match="0"):
        plan_for("cloud", 0, PAPER)
    with pytest.raises(InputError, match="60 with 50"):
        plan_for("ec-diff", 50, PAPER, handoff_step=60)
    with pytest.raises(PlanError, match=r"warm-up .* is 40"):
        plan_for("ec-diff", 50, PAPER, warmup=40)
