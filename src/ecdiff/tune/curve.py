"""The warm-up p, read off the noise-difference curve (Figure 3). No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

TOLERANCE = 1.5
IN_A_ROW = 3


@dataclass(frozen=True)
class Curve:
    """How far the noise moves from step i-1 to step i, for i = 1..T-1, over the prompts.

    Point i is |eps_i - eps_{i-1}| / |eps_{i-1}|, the noise being the guided one: `mean` is its
    average over the prompts and `deviation` its standard deviation.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


def warmup(mean: Sequence[float], latest: int) -> int:
    """p: the steps to evaluate before the first gradient is taken, 2..`latest`.

    The rule for "stable": a difference is stable when it, and the two after it, are at most 1.5
    times the median of the whole curve. The first gradient is the difference between the last two
    of the p evaluated steps; p is the smallest number that makes it the first stable one.
    """
    level = TOLERANCE * median(mean)
    for i in range(len(mean)):
        if all(d <= level for d in mean[i : i + IN_A_ROW]):
            return min(max(i + 2, 2), latest)  # mean[i] lies between steps i and i + 1
    return latest
