"""The two-stage greedy search (Algorithms 2 and 3), as the paper's text describes it. No torch.

Both stages walk along an ordered list of values: on while it gets better, to the other side when
it does not, until three in a row have brought nothing. Each calls `rank`, whose results are
compared with `>`; equal is not better, so that a flat objective ends a walk at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TypeVar

from ecdiff.tune.objective import LATEST, START, Rank, scaled

SKIPS = range(1, 6)  # k
ALPHAS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
FIRST_ALPHA = 0.5
PATIENCE = 3
BUDGET = 49  # a tenth of the grid at T = 50
NOTHING: Rank = (False, -inf)

V = TypeVar("V", int, float)


@dataclass(frozen=True)
class Point:
    """Where the objective is evaluated; p is fixed by then."""

    skip: int  # k
    smoothing: float  # alpha
    handoff_step: int  # s


def handoff_steps(steps: int, earliest: int) -> range:
    """The s that stage 2 may choose: 30..40 at T = 50."""
    return range(earliest, scaled(LATEST, steps) + 1)


def walk(values: Sequence[V], start: V, rank: Callable[[V], Rank]) -> V:
    """The best of the visited `values` (ascending), from `start` outwards.

    After a value that is no better than the best so far the walk turns round and goes on with
    the nearest value it has not seen on that side. It ends after three such values in a row, or
    when the side it faces has none left.
    """
    best = at = start
    best_rank, seen, direction, worse = rank(start), {start}, 1, 0
    while worse < PATIENCE:
        ahead = [v for v in values if v not in seen and (v - at) * direction > 0]
        if not ahead:
            break
        at = ahead[0] if direction > 0 else ahead[-1]
        seen.add(at)
        found = rank(at)
        if found > best_rank:
            best, best_rank, worse = at, found, 0
        else:
            direction, worse = -direction, worse + 1
    return best


def stage_one(rank: Callable[[int, float], Rank]) -> dict[int, float]:
    """Algorithm 2: the best alpha of each k that was tried, the best k first."""
    found: list[tuple[Rank, int, float]] = []
    best, without = None, 0
    for k in SKIPS:
        alpha = walk(ALPHAS, FIRST_ALPHA, lambda a, k=k: rank(k, a))  # type: ignore[misc]
        here = rank(k, alpha)
        found.append((here, k, alpha))
        if best is None or here > best:
            best, without = here, 0
        else:
            without += 1
        if without == PATIENCE:
            break
    found.sort(key=lambda each: each[0], reverse=True)
    return {k: alpha for _, k, alpha in found}


def stage_two(steps: int, values: range, rank: Callable[[int], Rank]) -> int:
    """Algorithm 3: s from 35 (at T = 50) within `values`."""
    start = min(max(scaled(START, steps), values[0]), values[-1])
    return walk(values, start, rank)


@dataclass
class Finder:
    """The best point of stage 2 so far, and what finding it has cost."""

    rank: Callable[[Point], Rank]
    bound: Callable[[Point], float] | None  # what a point is worth if its pictures are perfect
    known: dict[Point, Rank] = field(default_factory=dict)
    best: Point | None = None

    def look(self, point: Point) -> Rank | None:
        """The point's rank; with a `bound`, None where it cannot beat the best above the floor,
        or where `BUDGET` points have been evaluated and there is a best."""
        top = self.known[self.best] if self.best else NOTHING
        if self.bound is not None and point not in self.known and top > NOTHING:
            hopeless = top[0] and self.bound(point) <= top[1]
            if hopeless or len(self.known) >= BUDGET:
                return None
        found = self.evaluate(point)
        if found > top:
            self.best = point
        return found

    def evaluate(self, point: Point) -> Rank:
        if point not in self.known:
            self.known[point] = self.rank(point)
        return self.known[point]


def two_stages(
    steps: int,
    earliest: int,
    rank: Callable[[Point], Rank],
    bound: Callable[[Point], float] | None = None,
) -> Point:
    """The whole search: without a `bound` exactly the paper's, with one two things more.

    Points whose `bound` does not beat the best so far are not evaluated. And since stage 1, which
    sees the whole trajectory on the cloud, cannot know which k leaves room for an early handoff
    above a quality floor, every other k and its alpha is tried too: from the latest s to the
    earliest, until one falls below the floor, as it then will for every earlier s.
    """
    finder = Finder(rank, bound)
    ranking = stage_one(lambda k, alpha: finder.evaluate(Point(k, alpha, steps)))
    values = handoff_steps(steps, earliest)
    (k, alpha), *rivals = ranking.items()
    stage_two(steps, values, lambda s: finder.look(Point(k, alpha, s)) or NOTHING)
    for k, alpha in rivals if bound else ():
        for s in reversed(values):
            found = finder.look(Point(k, alpha, s))
            if found is not None and not found[0]:
                break
    assert finder.best is not None
    return finder.best


def grid(steps: int, earliest: int) -> list[Point]:
    """Every (k, alpha, s): 495 points at T = 50. Those of one (k, alpha) are neighbours."""
    values = handoff_steps(steps, earliest)
    return [Point(k, alpha, s) for k in SKIPS for alpha in ALPHAS for s in values]
