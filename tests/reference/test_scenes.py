"""The scenes: determinism, the held-out combinations, captions that tell the truth."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest

from ecdiff.reference import scenes
from ecdiff.reference.render import render
from ecdiff.reference.scenes import (
    BACKGROUNDS,
    COLOURS,
    OBJECTS,
    RELATIONS,
    SIZES,
    caption,
    held_out_combinations,
    held_out_scenes,
    training_scene,
)


def test_the_same_seed_gives_the_same_scene_pixels_and_words() -> None:
    for seed in (0, 7, 123456):
        a, b = training_scene(seed), training_scene(seed)
        assert a == b
        assert np.array_equal(np.asarray(render(a)), np.asarray(render(b)))
        assert caption(a, random.Random(1)) == caption(b, random.Random(1))


def test_seeds_differ_and_textures_differ_for_the_same_words() -> None:
    pictures = {np.asarray(render(training_scene(seed))).tobytes() for seed in range(20)}
    assert len(pictures) == 20


def test_training_never_draws_a_held_out_combination() -> None:
    held_out = set(held_out_combinations())
    for seed in range(3000):
        scene = training_scene(seed)
        drawn = {(t.what, t.colour, scene.background) for t in scene.things}
        assert not drawn & held_out


@pytest.mark.parametrize("things", [1, 2])
def test_held_out_scenes_are_held_out_and_fixed(things: int) -> None:
    held_out = set(held_out_combinations())
    some = held_out_scenes(60, things)
    assert some == held_out_scenes(60, things)
    for scene in some:
        assert len(scene.things) == things
        assert all((t.what, t.colour, scene.background) in held_out for t in scene.things)


def test_held_out_combinations_touch_every_object_colour_and_background() -> None:
    combinations = held_out_combinations()
    total = len(OBJECTS) * len(COLOURS) * len(BACKGROUNDS)
    assert 0.06 < len(combinations) / total < 0.14
    for position, words in enumerate((OBJECTS, COLOURS, BACKGROUNDS)):
        assert {c[position] for c in combinations} == set(words)


def test_training_draws_are_balanced() -> None:
    drawn = [training_scene(seed) for seed in range(3000)]
    for background in BACKGROUNDS:
        share = sum(s.background == background for s in drawn) / len(drawn)
        assert abs(share - 1 / len(BACKGROUNDS)) < 0.03
    two = sum(len(s.things) == 2 for s in drawn) / len(drawn)
    assert abs(two - scenes.TWO_OBJECT_SHARE) < 0.04


def test_captions_say_what_is_there() -> None:
    for seed in range(500):
        scene = training_scene(seed)
        words = caption(scene, random.Random(seed))
        assert any(place in words for place in BACKGROUNDS[scene.background])
        for thing in scene.things:
            said = "|".join(w for w in SIZES[thing.size] if w)
            size = f"(?:{said}) " if said else ""
            assert re.search(rf"\ban? {size}{thing.colour} {thing.what}\b", words), words
        if scene.relation:
            first, second = (words.index(f"{t.colour} {t.what}") for t in scene.things)
            between = words[first:second]
            assert any(f" {r} " in between for r in RELATIONS[scene.relation]), words


def test_relations_hold_in_the_picture() -> None:
    for scene in held_out_scenes(60, things=2):
        a, b = scene.things
        dx, dy = b.x - a.x, b.y - a.y
        assert {"left of": dx > 30, "right of": dx < -30, "above": dy > 30}[scene.relation or ""]


def test_every_object_shows_its_colour_on_every_background() -> None:
    for i, (what, colour, background) in enumerate(held_out_combinations()):
        rng = random.Random(i)
        scene = scenes._place(i, rng, background, ((what, colour),))
        thing = scene.things[0]
        x0, y0, r = int(thing.x), int(thing.y), int(thing.radius)
        patch = np.asarray(render(scene), float)[max(y0 - r, 0) : y0 + r, max(x0 - r, 0) : x0 + r]
        near = np.abs(patch - np.array(COLOURS[colour])).max(axis=-1) < 60
        assert near.mean() > 0.05, scene
