"""Scenes: what is in a picture, the words for it, and the held-out combinations. No torch.

A `Scene` is the ground truth; `render.render(scene)` draws it; `caption(scene, rng)` words it.
The same seed always gives the same scene, the same pixels and the same caption.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from itertools import product

OBJECTS = (
    "circle",
    "square",
    "triangle",
    "star",
    "heart",
    "house",
    "tree",
    "fish",
    "car",
    "boat",
    "flower",
    "mushroom",
    "balloon",
    "butterfly",
    "umbrella",
    "cup",
)
COLOURS = {
    "red": (214, 48, 44),
    "orange": (243, 138, 36),
    "yellow": (246, 212, 58),
    "green": (52, 166, 70),
    "blue": (46, 104, 220),
    "purple": (138, 68, 186),
    "pink": (244, 134, 182),
    "brown": (134, 84, 48),
    "white": (244, 244, 240),
    "black": (38, 38, 44),
}
BACKGROUNDS = {
    "meadow": ("on the grass", "in a meadow", "on a green meadow"),
    "night": ("at night", "under the moon", "in the moonlight"),
    "sunset": ("at sunset", "in the evening sun", "in front of a sunset"),
    "snow": ("in the snow", "in winter", "on a snowy day"),
    "desert": ("in the desert", "among the dunes", "on the sand"),
    "sea": ("in the sea", "on the sea", "among the waves"),
    "wall": ("by a brick wall", "in front of a brick wall", "at a brick wall"),
}
SIZES = {  # words that may be said; the first is the canonical one
    "small": ("small", "little", "tiny"),
    "medium": ("",),
    "big": ("big", "large", "huge"),
}
RELATIONS = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over"),
}
HELD_OUT_ONE_IN = 10
TWO_OBJECT_SHARE = 0.5
FLOATING = frozenset(
    {"circle", "square", "triangle", "star", "heart", "fish", "balloon", "butterfly", "umbrella"}
)


@dataclass(frozen=True)
class Thing:
    """One object of a scene; centre `x`, `y` and `radius` in pixels of the 128 x 128 picture."""

    what: str
    colour: str
    size: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """The ground truth of one picture. With two things, `things[0]` is `relation` `things[1]`."""

    seed: int
    background: str
    things: tuple[Thing, ...]
    relation: str | None = None

    @property
    def held_out(self) -> bool:
        """Whether any (object, colour, background) of this scene is kept from training."""
        return any(is_held_out(t.what, t.colour, self.background) for t in self.things)


def is_held_out(*combination: str) -> bool:
    """A fixed one in ten of all combinations, by hash: the same on every machine."""
    digest = hashlib.blake2b("|".join(combination).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % HELD_OUT_ONE_IN == 0


def held_out_combinations() -> list[tuple[str, str, str]]:
    """Every (object, colour, background) that no training scene contains."""
    return [c for c in product(OBJECTS, COLOURS, BACKGROUNDS) if is_held_out(*c)]


def training_scene(seed: int) -> Scene:
    """Draw a scene with no held-out combination in it."""
    rng = random.Random(f"train-{seed}")
    while True:
        scene = _draw(seed, rng, 2 if rng.random() < TWO_OBJECT_SHARE else 1)
        if not scene.held_out:
            return scene


def held_out_scenes(count: int, things: int = 1) -> list[Scene]:
    """The first `count` of a fixed list of scenes made of held-out combinations only."""
    combinations = held_out_combinations()
    random.Random("held-out").shuffle(combinations)
    scenes = []
    for i in range(count):
        rng = random.Random(f"held-out-{things}-{i}")
        what, colour, background = combinations[i % len(combinations)]
        first = (what, colour)
        if things == 1:
            scenes.append(_place(i, rng, background, (first,)))
            continue
        others = [c[:2] for c in combinations if c[2] == background and c[0] != what]
        scenes.append(_place(i, rng, background, (first, rng.choice(others))))
    return scenes


def caption(scene: Scene, rng: random.Random | None = None) -> str:
    """Word a scene; without `rng` in the plainest way, else by a random paraphrase."""

    def pick(options: tuple[str, ...]) -> str:
        return rng.choice(options) if rng else options[0]

    def name(thing: Thing) -> str:
        words = " ".join(w for w in (pick(SIZES[thing.size]), thing.colour, thing.what) if w)
        return ("an " if words[0] in "aeiou" else "a ") + words

    place = pick(BACKGROUNDS[scene.background])
    subject = name(scene.things[0])
    if scene.relation:
        subject = f"{subject} {pick(RELATIONS[scene.relation])} {name(scene.things[1])}"
    form = pick(("{s} {p}", "{s} {p}", "{s}, {p}", "a picture of {s} {p}", "{p}, {s}"))
    return form.format(s=subject, p=place)


def _draw(seed: int, rng: random.Random, count: int) -> Scene:
    background = rng.choice(list(BACKGROUNDS))
    whats = rng.sample(OBJECTS, count)
    return _place(seed, rng, background, tuple((w, rng.choice(list(COLOURS))) for w in whats))


def _place(
    seed: int, rng: random.Random, background: str, names: tuple[tuple[str, str], ...]
) -> Scene:
    """Choose sizes, positions and the relation for the named (object, colour) things."""
    if len(names) == 1:
        what, colour = names[0]
        size = rng.choice(list(SIZES))
        radius = {"small": 19.0, "medium": 29.0, "big": 41.0}[size] * rng.uniform(0.94, 1.06)
        spread = 54.0 - radius
        x = 64 + rng.uniform(-0.8, 0.8) * spread
        y = rng.uniform(58, 70) if what in FLOATING else 110 - radius + rng.uniform(-5, 4)
        return Scene(seed, background, (Thing(what, colour, size, x, y, radius),))
    relation = rng.choice(list(RELATIONS))
    things = []
    middle = 64 + rng.uniform(-4, 4)
    for i, (what, colour) in enumerate(names):
        size = rng.choice(("small", "medium"))
        radius = {"small": 18.0, "medium": 26.0}[size] * rng.uniform(0.94, 1.06)
        side = -1 if i == 0 else 1
        if relation == "above":
            x, y = middle + rng.uniform(-6, 6), 64 + side * 31
        else:
            x = middle + (side if relation == "left of" else -side) * 30
            y = rng.uniform(62, 70) if what in FLOATING else 108 - radius + rng.uniform(-4, 3)
        things.append(Thing(what, colour, size, x, y, radius))
    return Scene(seed, background, tuple(things), relation)
