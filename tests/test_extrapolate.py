from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ecdiff.extrapolate import RULES, History
from ecdiff.plan import RULES as NAMES
from ecdiff.plan import Phase

SHAPE = (1, 4, 8, 8)


def run(phase: Phase, evaluate: Callable[[int], Tensor]) -> list[Tensor]:
    """The noise of every step of `phase`, where `evaluate(i)` is the network."""
    rule, past, out = RULES[phase.rule], History(), []
    for i in range(phase.steps):
        assert rule.holds_enough(past, i, phase)
        if phase.evaluates(i):
            eps = evaluate(i)
            past = rule.observe(past, eps, i, phase)
        else:
            eps, past = rule.extrapolate(past)
        out.append(eps)
    return out


def values(noises: list[Tensor]) -> list[float]:
    return [noise.unique().item() for noise in noises]


def test_the_plan_and_the_rules_name_the_same_rules() -> None:
    assert set(NAMES) == set(RULES)


def test_algorithm_1_by_hand() -> None:
    """p = 3, k = 2, alpha = 0.5, T = 12, with made-up noise."""
    evaluated = {0: 10.0, 1: 8.0, 2: 7.0, 5: 2.0, 8: 1.0, 11: 9.0}
    expected = [
        10.0,
        8.0,
        7.0,  # Eq. 3: the gradient is 7 - 8 = -1, not damped
        6.0,  # Eq. 4: 7 - 1
        5.0,  # 6 - 1
        2.0,  # Eq. 6: 0.5 * (2 - 5) = -1.5
        0.5,  # 2 - 1.5
        -1.0,  # 0.5 - 1.5
        1.0,  # 0.5 * (1 - -1) = 1
        2.0,  # 1 + 1
        3.0,  # 2 + 1
        9.0,
    ]
    phase = Phase("cloud", 12, warmup=3, skip=2, smoothing=0.5)
    assert values(run(phase, lambda i: torch.full(SHAPE, evaluated[i]))) == expected


@pytest.mark.parametrize(("p", "k"), [(2, 1), (3, 2), (7, 2), (6, 5), (2, 9)])
def test_linear_noise_is_extrapolated_exactly(p: int, k: int) -> None:
    """With alpha = 1 in the whole phase. The numbers are dyadic, so float32 is exact too."""
    start, slope = torch.randint(-64, 64, (2, *SHAPE)) / 16

    def linear(i: int) -> Tensor:
        return start + i * slope

    for i, noise in enumerate(run(Phase("cloud", 50, p, k, 1.0), linear)):
        assert torch.equal(noise, linear(i))


def test_after_two_corrections_the_gradient_is_between_the_two() -> None:
    phase = Phase("cloud", 11, 3, 2, 0.5, corrections=2)
    noises = values(run(phase, lambda i: torch.full(SHAPE, float(i * i))))
    assert noises[5:7] == [25.0, 36.0]
    assert noises[7:9] == [36.0 + 5.5, 36.0 + 11.0]


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_first_stretch_of_linear_noise_is_exact_with_any_smoothing(alpha: float) -> None:
    noises = values(run(Phase("cloud", 20, 4, 5, alpha), lambda i: torch.full(SHAPE, 3.0 - i)))
    assert noises[:10] == [3.0 - i for i in range(10)]


def test_without_smoothing_s_share_the_last_noise_stays() -> None:
    noises = values(run(Phase("cloud", 12, 3, 2, 0.0), lambda i: torch.full(SHAPE, float(i * i))))
    assert noises[6:8] == [25.0, 25.0]


def test_reuse_returns_the_last_evaluated_noise() -> None:
    phase = Phase("cloud", 12, warmup=3, skip=2, rule="reuse")
    noises = values(run(phase, lambda i: torch.full(SHAPE, float(i))))
    assert noises == [0, 1, 2, 2, 2, 5, 5, 5, 8, 8, 8, 11]


def test_a_rule_writes_to_no_tensor_it_was_given() -> None:
    phase = Phase("cloud", 12, 3, 2, 0.5)
    given = [torch.randn(SHAPE) for _ in range(12)]
    kept = [noise.clone() for noise in given]
    run(phase, lambda i: given[i])
    assert all(torch.equal(a, b) for a, b in zip(given, kept, strict=True))
