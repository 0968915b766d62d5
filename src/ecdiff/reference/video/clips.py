"""Clips: what moves how in front of what, the words for it, and the held-out combinations.

A `Clip` is the ground truth; `render.render(clip)` draws it; `caption(clip, rng)` words it.
The same seed always gives the same clip, the same pixels and the same caption. No torch.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import product

from ecdiff.reference.scenes import is_held_out

SIDE = 64  # pixels
FRAMES = 9
OBJECTS = ("circle", "square", "triangle", "star", "heart", "fish", "butterfly", "umbrella")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
MOTIONS = {
    "left": ("moving left", "going left", "moving to the left"),
    "right": ("moving right", "going right", "moving to the right"),
    "up": ("moving up", "rising", "going up"),
    "down": ("moving down", "falling", "going down"),
    "growing": ("growing", "getting bigger"),
    "shrinking": ("shrinking", "getting smaller"),
}
BACKGROUNDS = {  # a caption that names no place means the plain one
    "plain": ("",),
    "meadow": ("in a meadow", "on the grass"),
    "night": ("at night", "under the moon"),
    "sunset": ("at sunset", "in the evening sun"),
}
SIZES = {"small": ("small", "little"), "medium": ("",), "big": ("big", "large")}
RADII = {"small": 7.5, "medium": 10.5, "big": 14.0}  # pixels, in the middle frame
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
TRAVEL = 22.0  # pixels from the first frame to the last
GROWTH = 2.25  # last radius over first radius


@dataclass(frozen=True)
class Clip:
    """One thing that moves; `x`, `y` and `radius` in pixels, as they are in the middle frame."""

    seed: int
    background: str
    what: str
    colour: str
    size: str
    motion: str
    x: float
    y: float
    radius: float

    def place(self, frame: float) -> tuple[float, float, float]:
        """Centre x, y and radius in frame 0..8, in pixels."""
        along = frame / (FRAMES - 1) - 0.5
        dx, dy = DIRECTIONS.get(self.motion, (0, 0))
        grows = {"growing": 1, "shrinking": -1}.get(self.motion, 0)
        radius = self.radius * GROWTH ** (along * grows)
        return self.x + dx * along * TRAVEL, self.y + dy * along * TRAVEL, radius


def held_out_combinations() -> list[tuple[str, str, str]]:
    """Every (object, colour, motion) that no training clip shows."""
    return [c for c in product(OBJECTS, COLOURS, MOTIONS) if is_held_out(*c)]


def training_clip(seed: int) -> Clip:
    """Draw a clip that is not a held-out combination."""
    rng = random.Random(f"train-{seed}")
    while True:
        names = rng.choice(OBJECTS), rng.choice(COLOURS), rng.choice(list(MOTIONS))
        if not is_held_out(*names):
            return _place(seed, rng, *names)


def any_clip(seed: int) -> Clip:
    """Draw a clip of any combination, held out or not."""
    rng = random.Random(f"any-{seed}")
    return _place(seed, rng, rng.choice(OBJECTS), rng.choice(COLOURS), rng.choice(list(MOTIONS)))


def held_out_clips(count: int) -> list[Clip]:
    """The first `count` of a fixed list of clips of held-out combinations."""
    combinations = held_out_combinations()
    random.Random("held-out").shuffle(combinations)
    return [
        _place(i, random.Random(f"held-out-{i}"), *combinations[i % len(combinations)])
        for i in range(count)
    ]


def caption(clip: Clip, rng: random.Random | None = None) -> str:
    """Word a clip; without `rng` in the plainest way, else by a random paraphrase."""

    def pick(options: tuple[str, ...]) -> str:
        return rng.choice(options) if rng else options[0]

    thing = " ".join(w for w in (pick(SIZES[clip.size]), clip.colour, clip.what) if w)
    article = "an" if thing[0] in "aeiou" else "a"
    place = pick(BACKGROUNDS[clip.background])
    return " ".join(w for w in (article, thing, pick(MOTIONS[clip.motion]), place) if w)


def _place(seed: int, rng: random.Random, what: str, colour: str, motion: str) -> Clip:
    """Choose background, size and where the thing is, so that it stays in the picture."""
    background, size = rng.choice(list(BACKGROUNDS)), rng.choice(list(SIZES))
    radius = RADII[size] * rng.uniform(0.94, 1.06)
    dx, dy = DIRECTIONS.get(motion, (0, 0))
    widest = radius if motion in DIRECTIONS else radius * GROWTH**0.5
    x, y = (
        SIDE / 2 + rng.uniform(-1, 1) * (SIDE / 2 - widest - abs(d) * TRAVEL / 2) for d in (dx, dy)
    )
    return Clip(seed, background, what, colour, size, motion, x, y, radius)
