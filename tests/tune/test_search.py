from __future__ import annotations

import random
from collections.abc import Callable
from itertools import product

import pytest

from ecdiff.measure import seconds_of
from ecdiff.plan import cloud_only, edge_only, split
from ecdiff.tune.objective import Objective, Rank, Score, rank
from ecdiff.tune.search import (
    ALPHAS,
    SKIPS,
    Point,
    grid,
    handoff_steps,
    stage_one,
    stage_two,
    two_stages,
    walk,
)


def seen(f: Callable[[float], float]) -> tuple[list[float], Callable[[float], Rank]]:
    """`f` as a rank, and the list of what it was asked, each once."""
    asked: list[float] = []

    def ranked(v: float) -> Rank:
        if v not in asked:
            asked.append(v)
        return (True, f(v))

    return asked, ranked


@pytest.mark.parametrize("peak", ALPHAS)
def test_a_single_peak_is_found_wherever_it_is(peak: float) -> None:
    asked, ranked = seen(lambda v: -abs(v - peak))
    assert walk(ALPHAS, 0.5, ranked) == peak
    assert len(asked) <= 7


@pytest.mark.parametrize(("slope", "end"), [(1, 0.9), (-1, 0.1)])
def test_a_monotone_objective_ends_at_its_end(slope: int, end: float) -> None:
    _, ranked = seen(lambda v: slope * v)
    assert walk(ALPHAS, 0.5, ranked) == end


def test_a_flat_objective_ends_after_three_looks() -> None:
    asked, ranked = seen(lambda v: 1.0)
    assert walk(ALPHAS, 0.5, ranked) == 0.5
    assert asked == [0.5, 0.6, 0.4, 0.7]


def test_after_worse_it_turns_round_and_after_better_it_goes_on() -> None:
    asked, ranked = seen(lambda v: -abs(v - 0.3))
    walk(ALPHAS, 0.5, ranked)
    assert asked == [0.5, 0.6, 0.4, 0.3, 0.2, 0.7, 0.1]


def test_it_looks_past_one_bad_value() -> None:
    _, ranked = seen({0.5: 0.0, 0.6: -1.0, 0.7: 1.0, 0.8: 2.0}.get)  # type: ignore[arg-type]
    with pytest.raises(TypeError):  # it has reached 0.9, which has no value here
        walk(ALPHAS, 0.5, ranked)


@pytest.mark.parametrize("seed", range(20))
def test_noise_smaller_than_the_slope_does_not_mislead(seed: int) -> None:
    rng = random.Random(seed)
    noise = {v: rng.uniform(-0.04, 0.04) for v in ALPHAS}
    peak = rng.choice(ALPHAS)
    _, ranked = seen(lambda v: noise[v] - abs(v - peak))
    assert walk(ALPHAS, 0.5, ranked) == peak


@pytest.mark.parametrize("seed", range(20))
def test_pure_noise_ends_at_the_best_of_what_was_seen(seed: int) -> None:
    rng = random.Random(seed)
    noise = {v: rng.random() for v in ALPHAS}
    asked, ranked = seen(noise.__getitem__)
    assert noise[walk(ALPHAS, 0.5, ranked)] == max(noise[v] for v in asked)


def test_three_k_without_improvement_end_stage_one() -> None:
    asked = set()

    def ranked(k: int, alpha: float) -> Rank:
        asked.add(k)
        return (True, -k - abs(alpha - 0.3))

    ranking = stage_one(ranked)
    assert asked == {1, 2, 3, 4}
    assert list(ranking) == [1, 2, 3, 4]
    assert set(ranking.values()) == {0.3}


def test_stage_one_tries_every_k_while_it_pays() -> None:
    assert next(iter(stage_one(lambda k, alpha: (True, float(k))))) == 5


@pytest.mark.parametrize("steps", [10, 20, 25, 50, 100])
def test_the_range_of_s_scales_with_the_steps(steps: int) -> None:
    values = handoff_steps(steps, round(30 * steps / 50))
    assert (values[0], values[-1]) == (round(0.6 * steps), round(0.8 * steps))
    for best in values:
        assert stage_two(steps, values, lambda s, best=best: (True, -abs(s - best))) == best


def test_the_grid_has_495_points() -> None:
    points = grid(50, 30)
    assert len(points) == len(set(points)) == 495


class Landscape:
    """A made-up pair of 50 steps: quality falls with k, with alpha away from `alpha`, with the
    cloud's extrapolated steps (`drift`) and with the edge's steps (`gap`)."""

    def __init__(self, drift: float, gap: float, alpha: float, edge: float, shake: float) -> None:
        self._drift, self._gap, self._alpha, self._shake = drift, gap, alpha, shake
        self._times = {"cloud": 1.0, "edge": edge, "extrapolated": 0.001, "fixed": 2.0}
        whole, small = (seconds_of(plan(50), self._times) for plan in (cloud_only, edge_only))
        self.objective = Objective(50, whole, small)
        self.floor = 1 - gap * 10 - 0.02
        self.asked: set[Point] = set()

    def quality(self, point: Point) -> float:
        k, alpha, s = point.skip, point.smoothing, point.handoff_step
        off = self._drift * k**1.5 * (1 + 4 * abs(alpha - self._alpha)) * s / 50
        shake = random.Random(str(point)).uniform(-self._shake, self._shake)
        return 1 - off - self._gap * (50 - s) + shake

    def score(self, point: Point, quality: float | None = None) -> Score:
        if quality is None:
            self.asked.add(point)
            quality = self.quality(point)
        plan = split(50, point.handoff_step, 7, point.skip, point.smoothing)
        seconds = seconds_of(plan, self._times)
        return self.objective.score(point.handoff_step, quality, seconds)

    def rank(self, point: Point) -> Rank:
        return rank(self.score(point), self.floor)

    def bound(self, point: Point) -> float:
        return self.score(point, quality=1.0).value


LANDSCAPES = list(
    product((0.0005, 0.001, 0.002, 0.004), (0.002, 0.004, 0.008), (0.1, 0.3, 0.8), (0.2, 0.6))
)


@pytest.mark.parametrize(("drift", "gap", "alpha", "edge"), LANDSCAPES)
def test_a_tenth_of_the_grid_finds_nearly_its_best(
    drift: float, gap: float, alpha: float, edge: float
) -> None:
    land = Landscape(drift, gap, alpha, edge, shake=0.0)
    found = land.rank(two_stages(50, 30, land.rank, land.bound))
    assert len(land.asked) <= 49
    best = max(land.rank(point) for point in grid(50, 30))
    assert found[0] == best[0]
    assert found[1] >= 0.97 * best[1]  # 1.00 in all but two of them


@pytest.mark.parametrize("seed", range(10))
def test_the_floor_is_kept_in_spite_of_noise(seed: int) -> None:
    rng = random.Random(seed)
    land = Landscape(rng.uniform(0.0005, 0.002), 0.004, rng.choice(ALPHAS), 0.4, shake=0.002)
    point = two_stages(50, 30, land.rank, land.bound)
    assert land.quality(point) >= land.floor


@pytest.mark.parametrize(("drift", "gap", "alpha", "edge"), LANDSCAPES)
def test_without_a_floor_eq_12_takes_the_earliest_handoff(
    drift: float, gap: float, alpha: float, edge: float
) -> None:
    land = Landscape(drift, gap, alpha, edge, shake=0.0)
    point = two_stages(50, 30, lambda point: rank(land.score(point), None), None)
    assert point.handoff_step == 30
    assert point.skip in SKIPS
