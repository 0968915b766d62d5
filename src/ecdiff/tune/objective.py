"""What a plan is worth: Eq. 9-12, and the quality floor a shipped plan must keep. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from ecdiff.errors import InputError

EARLIEST = 30  # s' at T = 50, and the first s that is tried
LATEST = 40  # the last s that is tried at T = 50
START = 35  # where Algorithm 3 begins at T = 50
Rank = tuple[bool, float]  # the larger the better: keeps the floor, then by how much it is worth


def scaled(step: int, steps: int) -> int:
    """A step count that is stated for T = 50, for another T."""
    return round(step * steps / 50)


@dataclass(frozen=True)
class Weights:
    """w1, w2 and w3 of Eq. 12, as the paper sets them (A.5)."""

    quality: float = 0.3
    efficiency: float = 0.3
    burden: float = 0.4


@dataclass(frozen=True)
class Score:
    """One plan's three terms and their weighted sum. `seconds` is one picture's time."""

    quality: float  # Eq. 9: mean SSIM against cloud-only
    efficiency: float  # Eq. 10
    burden: float  # Eq. 11
    value: float  # Eq. 12
    seconds: float


@dataclass(frozen=True)
class Objective:
    """Eq. 10-12 with all that stays fixed during a search.

    Efficiency may leave 0..1: EC-Diff is often faster than the edge alone, which Eq. 10 puts
    above 1. `clip` cuts it back. Raises InputError when the edge is no faster than the cloud.
    """

    steps: int  # T
    cloud_seconds: float  # t^cloud, one picture
    edge_seconds: float  # t^edge
    clip: bool = False
    weights: Weights = Weights()

    def __post_init__(self) -> None:
        if self.edge_seconds >= self.cloud_seconds:
            raise InputError(
                f"edge-only takes {self.edge_seconds:.4g} s and cloud-only "
                f"{self.cloud_seconds:.4g} s: Eq. 10 needs an edge that is faster, so give the "
                "two models' own --step-times"
            )

    @property
    def earliest(self) -> int:
        """s' of Eq. 11."""
        return scaled(EARLIEST, self.steps)

    def efficiency(self, seconds: float) -> float:
        """Eq. 10 for a plan that takes `seconds` a picture."""
        gained = self.cloud_seconds - seconds
        ratio = gained / (self.cloud_seconds - self.edge_seconds)
        return min(max(ratio, 0.0), 1.0) if self.clip else ratio

    def burden(self, handoff_step: int) -> float:
        """Eq. 11: 0 at s = T, 1 at s = s'."""
        return (self.steps - handoff_step) / (self.steps - self.earliest)

    def score(self, handoff_step: int, quality: float, seconds: float) -> Score:
        """Eq. 12."""
        w, efficiency = self.weights, self.efficiency(seconds)
        burden = self.burden(handoff_step)
        value = w.quality * quality + w.efficiency * efficiency + w.burden * burden
        return Score(quality, efficiency, burden, value, seconds)


def rank(score: Score, floor: float | None) -> Rank:
    """By Eq. 12 among plans of at least `floor` SSIM; below it, the closer to it the better."""
    if floor is not None and score.quality < floor:
        return (False, score.quality)
    return (True, score.value)
