from __future__ import annotations

from ecdiff.tune.curve import warmup

FALLING = [0.9, 0.5, 0.3, 0.2, *[0.1] * 40, 0.3, 0.6]


def test_p_makes_the_first_gradient_the_first_stable_difference() -> None:
    p = warmup(FALLING, latest=30)
    assert p == 6
    assert FALLING[p - 2] == 0.1  # between steps p - 2 and p - 1, the last two of the warm-up
    assert FALLING[p - 3] == 0.2


def test_one_calm_difference_among_others_is_not_stable() -> None:
    assert warmup([0.9, 0.1, 0.8, 0.7, *[0.1] * 30], latest=30) == 6


def test_a_curve_that_is_stable_from_the_start_needs_two_steps() -> None:
    assert warmup([0.1] * 49, latest=30) == 2


def test_a_curve_that_never_settles_ends_at_the_earliest_handoff() -> None:
    assert warmup([0.1, 0.9, 0.1, 0.1, 0.9] * 4 + [0.1, 0.9], latest=7) == 7
