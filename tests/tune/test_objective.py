from __future__ import annotations

from itertools import pairwise

import pytest

from ecdiff.errors import InputError
from ecdiff.tune.objective import Objective, Weights, rank


@pytest.fixture
def objective() -> Objective:
    return Objective(50, cloud_seconds=2.0, edge_seconds=1.0)


def test_the_ends_of_each_term(objective: Objective) -> None:
    whole = objective.score(50, 1.0, 2.0)
    assert (whole.efficiency, whole.burden, whole.value) == (0.0, 0.0, 0.3)
    early = objective.score(30, 1.0, 1.0)
    assert (early.efficiency, early.burden) == (1.0, 1.0)
    assert early.value == pytest.approx(1.0)


def test_every_earlier_handoff_pays_0_02_of_burden(objective: Objective) -> None:
    worth = [objective.score(s, 0.9, 1.5).value for s in range(30, 41)]
    assert [a - b for a, b in pairwise(worth)] == pytest.approx([0.02] * 10)


def test_efficiency_may_exceed_one_unless_it_is_clipped(objective: Objective) -> None:
    assert objective.efficiency(0.5) == 1.5
    clipped = Objective(50, 2.0, 1.0, clip=True)
    assert (clipped.efficiency(0.5), clipped.efficiency(2.5)) == (1.0, 0.0)


def test_the_weights_are_the_papers() -> None:
    assert Weights() == Weights(0.3, 0.3, 0.4)


@pytest.mark.parametrize("edge", [2.0, 3.0])
def test_an_edge_that_is_not_faster_is_refused(edge: float) -> None:
    with pytest.raises(InputError, match="step-times"):
        Objective(50, 2.0, edge)


def test_keeping_the_floor_comes_before_any_worth(objective: Objective) -> None:
    poor, good = objective.score(30, 0.89, 0.5), objective.score(50, 0.9, 2.0)
    assert poor.value > good.value
    assert rank(good, 0.9) > rank(poor, 0.9)
    assert rank(poor, None) > rank(good, None)


def test_below_the_floor_the_closer_is_better(objective: Objective) -> None:
    assert rank(objective.score(40, 0.8, 1.5), 0.9) > rank(objective.score(30, 0.7, 0.5), 0.9)
