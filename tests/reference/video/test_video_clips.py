"""The clips: determinism, the held-out combinations, and captions that tell the truth."""

from __future__ import annotations

import random

import numpy as np
import pytest

from ecdiff.reference.video.clips import (
    BACKGROUNDS,
    COLOURS,
    FRAMES,
    MOTIONS,
    OBJECTS,
    SIDE,
    SIZES,
    Clip,
    any_clip,
    caption,
    held_out_clips,
    held_out_combinations,
    training_clip,
)
from ecdiff.reference.video.render import background, render


def outline(clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    """The thing's centre (x, y) [9, 2] and area [9] in each frame, measured in the pixels."""
    apart = np.abs(render(clip).astype(int) - background(clip)).max(-1) > 12
    ys, xs = np.mgrid[0:SIDE, 0:SIDE]
    area = apart.sum((1, 2))
    centre = np.stack([(apart * xs).sum((1, 2)), (apart * ys).sum((1, 2))], 1) / area[:, None]
    return centre, area


def test_the_same_seed_gives_the_same_pixels_and_words() -> None:
    for seed in (0, 7, 123456):
        a, b = training_clip(seed), training_clip(seed)
        assert a == b
        assert np.array_equal(render(a), render(b))
        assert caption(a, random.Random(1)) == caption(b, random.Random(1))


def test_a_clip_is_nine_frames_and_seeds_differ() -> None:
    drawn = {render(training_clip(seed)).tobytes() for seed in range(20)}
    assert len(drawn) == 20
    assert render(training_clip(0)).shape == (FRAMES, SIDE, SIDE, 3)


def test_training_never_shows_a_held_out_combination() -> None:
    held_out = set(held_out_combinations())
    drawn = {(c.what, c.colour, c.motion) for c in map(training_clip, range(4000))}
    assert not drawn & held_out
    assert len(drawn) + len(held_out) == len(OBJECTS) * len(COLOURS) * len(MOTIONS)


def test_the_judges_clips_show_every_combination() -> None:
    drawn = {(c.what, c.colour, c.motion) for c in map(any_clip, range(6000))}
    assert len(drawn) == len(OBJECTS) * len(COLOURS) * len(MOTIONS)


def test_held_out_clips_are_held_out_and_fixed() -> None:
    some = held_out_clips(100)
    assert some == held_out_clips(100)
    assert {(c.what, c.colour, c.motion) for c in some} == set(held_out_combinations())


def test_held_out_combinations_touch_every_object_colour_and_motion() -> None:
    combinations = held_out_combinations()
    for position, words in enumerate((OBJECTS, COLOURS, MOTIONS)):
        assert {c[position] for c in combinations} == set(words)


@pytest.mark.parametrize("motion", MOTIONS)
def test_the_pixels_move_as_the_caption_says(motion: str) -> None:
    clips = [c for c in map(training_clip, range(200)) if c.motion == motion][:8]
    for clip in clips:
        assert any(words in caption(clip) for words in MOTIONS[motion])
        centre, area = outline(clip)
        moved, grown = centre[-1] - centre[0], area[-1] / area[0]
        if motion == "growing":
            assert grown > 3, clip
        elif motion == "shrinking":
            assert grown < 1 / 3, clip
        else:
            along, sign = {"left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1)}[motion]
            assert 15 < sign * moved[along] < 26, clip
            assert abs(moved[1 - along]) < 4, clip
            assert (np.diff(centre[:, along]) * sign > 0).all(), clip


def test_the_thing_stays_in_the_picture() -> None:
    for clip in map(training_clip, range(300)):
        for frame in range(FRAMES):
            x, y, radius = clip.place(frame)
            assert radius <= x + 1e-6, clip
            assert x <= SIDE - radius + 1e-6, clip
            assert radius <= y + 1e-6, clip
            assert y <= SIDE - radius + 1e-6, clip


def test_captions_say_what_is_there() -> None:
    for seed in range(400):
        clip = training_clip(seed)
        words = caption(clip, random.Random(seed))
        assert f"{clip.colour} {clip.what} " in words
        assert any(motion in words for motion in MOTIONS[clip.motion])
        if clip.background != "plain":
            assert any(words.endswith(place) for place in BACKGROUNDS[clip.background])
        assert any(words.startswith(("a " + s, "an " + s)) for s in SIZES[clip.size])
