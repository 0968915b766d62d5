"""Draw a clip. No torch.

The thing is drawn once by the pictures' own drawing code, larger than it will appear, and laid
over the unmoving background at each frame's place and size, so that its texture moves with it.
"""

from __future__ import annotations

import math
import random

import numpy as np
from PIL import Image

from ecdiff.reference import scenes
from ecdiff.reference.canvas import SIDE as CANVAS_SIDE
from ecdiff.reference.canvas import Array, Canvas, Colour
from ecdiff.reference.objects import DRAWERS, Brush, rim_of
from ecdiff.reference.video.clips import FRAMES, SIDE, Clip

SPRITE_RADIUS = 44.0  # pixels of the 128 x 128 canvas
REACH = 1.2  # how far a thing extends beyond its radius


def render(clip: Clip) -> Array:
    """The frames of a clip, uint8 [9, 64, 64, 3]; the same clip gives the same pixels."""
    still, picture = background(clip), sprite(clip)
    return np.stack([_laid_over(still, picture, clip.place(f)) for f in range(FRAMES)])


def background(clip: Clip) -> Array:
    """The picture behind the thing, uint8 [64, 64, 3]."""
    rng = random.Random(f"background-{clip}")
    canvas = Canvas()
    PAINTERS[clip.background](canvas, rng)
    return np.asarray(canvas.image().reduce(CANVAS_SIDE // SIDE))


def sprite(clip: Clip) -> Image.Image:
    """The thing alone in the middle of a transparent 128 x 128 RGBA picture."""
    layers = []
    for ground in (0.0, 255.0):
        rng = random.Random(f"sprite-{clip}")
        r, g, b = (v + rng.uniform(-7, 7) for v in scenes.COLOURS[clip.colour])
        colour = (min(max(r, 0.0), 255.0), min(max(g, 0.0), 255.0), min(max(b, 0.0), 255.0))
        canvas = Canvas()
        canvas.pixels[:] = ground
        middle = CANVAS_SIDE / 2
        DRAWERS[clip.what](
            Brush(canvas, rng, middle, middle, SPRITE_RADIUS, colour, rim_of(colour))
        )
        layers.append(canvas.pixels)
    on_black, on_white = layers
    opacity = 1 - (on_white - on_black).mean(-1, keepdims=True) / 255
    plain = on_black / np.maximum(opacity, 1e-3)
    pixels = np.concatenate([plain, 255 * opacity], -1)
    return Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8))


def _laid_over(still: Array, picture: Image.Image, place: tuple[float, float, float]) -> Array:
    """The background with the thing at centre x, y with its radius."""
    x, y, radius = place
    scale, half = SPRITE_RADIUS / radius, REACH * radius
    x0, y0 = max(math.floor(x - half), 0), max(math.floor(y - half), 0)
    x1, y1 = min(math.ceil(x + half), SIDE), min(math.ceil(y + half), SIDE)
    part = picture.resize(
        (x1 - x0, y1 - y0),
        Image.Resampling.HAMMING,
        box=tuple(
            min(max(CANVAS_SIDE / 2 + (edge - at) * scale, 0), CANVAS_SIDE)
            for edge, at in ((x0, x), (y0, y), (x1, x), (y1, y))
        ),  # type: ignore[arg-type]
    )
    pixels = np.asarray(part, np.float32)
    opacity = pixels[..., 3:] / 255
    frame = still.copy()
    window = frame[y0:y1, x0:x1]
    window[:] = np.round(window * (1 - opacity) + pixels[..., :3] * opacity).astype(np.uint8)
    return frame


def _jitter(colour: Colour, rng: random.Random, by: float = 8) -> Colour:
    r, g, b = (min(max(v + rng.uniform(-by, by), 0.0), 255.0) for v in colour)
    return (r, g, b)


def _plain(c: Canvas, rng: random.Random) -> None:
    """A pale wall, a little darker towards the bottom."""
    top = _jitter((214, 220, 226), rng, 14)
    c.gradient(top, (top[0] - 26, top[1] - 26, top[2] - 26))


def _hill(c: Canvas, rng: random.Random, colour: Colour) -> None:
    height, period, phase = rng.uniform(88, 100), rng.uniform(22, 30), rng.uniform(0, 6.28)
    c.layer(height + 5 * np.sin(np.arange(CANVAS_SIDE) / period + phase), _jitter(colour, rng))


def _meadow(c: Canvas, rng: random.Random) -> None:
    """Green ground under a light blue sky."""
    c.gradient(_jitter((132, 196, 240), rng), (214, 236, 250), 100)
    _hill(c, rng, (112, 178, 92))


def _night(c: Canvas, rng: random.Random) -> None:
    """A moon in a dark blue sky over dark ground."""
    c.gradient(_jitter((28, 32, 84), rng), (74, 80, 146), 100)
    c.ellipse(rng.uniform(16, 112), rng.uniform(14, 26), 9, 9, (250, 240, 196))
    _hill(c, rng, (42, 62, 88))


def _sunset(c: Canvas, rng: random.Random) -> None:
    """A low sun in an orange sky over violet ground."""
    c.gradient(_jitter((134, 88, 162), rng), (255, 180, 104), 96)
    c.ellipse(rng.uniform(24, 104), 84, 18, 18, (255, 226, 132))
    _hill(c, rng, (110, 68, 112))


PAINTERS = {"plain": _plain, "meadow": _meadow, "night": _night, "sunset": _sunset}
