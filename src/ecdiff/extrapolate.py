"""Noise extrapolation: EC-Diff's Algorithm 1 and its simplest rival, one step at a time.

`eps` is the noise after classifier-free guidance, one trajectory's, of the latents' shape.
A rule sees every evaluated noise through `observe` and makes the others in `extrapolate`;
what it must remember between steps is a `History` of at most two tensors.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from ecdiff.plan import Phase


class History(NamedTuple):
    """What a rule remembers. Empty when a phase begins, and wherever nothing is extrapolated."""

    noise: Tensor | None = None  # the last step's noise, evaluated or extrapolated
    gradient: Tensor | None = None  # the change per step, once it is known


class Rule(Protocol):
    def observe(self, past: History, eps: Tensor, i: int, phase: Phase) -> History:
        """Take in the evaluated noise of step `i` of `phase`."""
        ...

    def extrapolate(self, past: History) -> tuple[Tensor, History]:
        """The next step's noise without a network call."""
        ...

    def holds_enough(self, past: History, i: int, phase: Phase) -> bool:
        """Whether `past` is all that step `i` of `phase` and those after it need."""
        ...


class Gradient:
    """Linear in the step index, damped after the first cycle (Eq. 3, 4 and 6)."""

    def observe(self, past: History, eps: Tensor, i: int, phase: Phase) -> History:
        if past.noise is None or i < phase.warmup - 1:
            return History(eps)
        alpha = 1.0 if i < phase.warmup else phase.smoothing
        return History(eps, alpha * (eps - past.noise))  # Eq. 3, then Eq. 6

    def extrapolate(self, past: History) -> tuple[Tensor, History]:
        assert past.noise is not None
        assert past.gradient is not None
        eps = past.noise + past.gradient  # Eq. 4
        return eps, History(eps, past.gradient)

    def holds_enough(self, past: History, i: int, phase: Phase) -> bool:
        has_noise, has_gradient = past.noise is not None, past.gradient is not None
        return (has_noise or i == 0) and (has_gradient or i < phase.warmup)


class Reuse:
    """The last evaluated noise as it is."""

    def observe(self, past: History, eps: Tensor, i: int, phase: Phase) -> History:
        return History(eps)

    def extrapolate(self, past: History) -> tuple[Tensor, History]:
        assert past.noise is not None
        return past.noise, past

    def holds_enough(self, past: History, i: int, phase: Phase) -> bool:
        return past.noise is not None or i == 0


RULES: dict[str, Rule] = {"gradient": Gradient(), "reuse": Reuse()}
