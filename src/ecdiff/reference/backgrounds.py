"""The backgrounds of the scenes, each with its own fine structure. No torch."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np

from ecdiff.reference.canvas import (
    SIDE,
    XX,
    YY,
    Canvas,
    Colour,
    bricks,
    shade,
    stripes,
    wave,
    zigzag,
)

ROW = np.arange(SIDE, dtype=np.float32)


def meadow(c: Canvas, rng: random.Random) -> None:
    """Blue sky with clouds over rows of grass blades."""
    c.gradient((112, 186, 240), (206, 234, 250), 80)
    for _ in range(2):
        _cloud(c, rng.uniform(12, 116), rng.uniform(12, 34), rng.uniform(7, 10))
    phase = rng.random()
    c.layer(74 + 7 * np.sin(ROW / rng.uniform(18, 26) + 6.3 * phase), (122, 190, 96))
    _blades(c, rng, 82, (110, 184, 78), (86, 163, 64))


def night(c: Canvas, rng: random.Random) -> None:
    """A starry sky with a crescent moon over dark hills."""
    c.gradient((24, 30, 84), (78, 84, 156), 100)
    _stars(c, rng)
    x, y = rng.choice((rng.uniform(14, 34), rng.uniform(94, 114))), rng.uniform(15, 25)
    c.ellipse(x, y, 11, 11, (252, 240, 186), stripes(0.6, 7, rng.random(), 0.05))
    c.ellipse(x + 5, y - 2, 9.5, 9.5, (34, 41, 96))
    _blades(c, rng, 92, (56, 90, 107), (44, 74, 95))


def sunset(c: Canvas, rng: random.Random) -> None:
    """A striped sun going down behind furrowed, violet fields."""
    c.gradient((126, 84, 160), (255, 178, 96), 84)
    band = np.clip(wave(YY / rng.uniform(10, 13) + 0.06 * np.sin(XX / 19 + rng.random() * 6)), 0, 1)
    c.blend(0.16 * band * (YY < 60), (255, 214, 170), (slice(0, SIDE), slice(0, SIDE)))
    x = rng.uniform(24, 104)
    c.ellipse(x, 78, 24, 24, (255, 224, 120), stripes(math.pi / 2, 8, rng.random(), 0.09))
    c.layer(84 + 5 * np.sin(ROW / rng.uniform(15, 22) + rng.random() * 6), (148, 84, 128))
    furrow = stripes(rng.uniform(1.2, 1.9), rng.uniform(7, 9), rng.random(), 0.12)
    c.layer(93 + 3 * np.sin(ROW / 30 + rng.random() * 6), (106, 66, 112), furrow)


def snow(c: Canvas, rng: random.Random) -> None:
    """Firs and snowdrifts under falling flakes."""
    c.gradient((158, 184, 212), (210, 222, 236), 80)
    period, phase = rng.uniform(17, 24), rng.random()
    firs = 84 - 26 * zigzag(ROW / period + phase) ** 1.3
    c.layer(firs, (92, 136, 138), stripes(math.pi / 2, 7, rng.random(), 0.14))
    for i in range(3):
        y = 80 + 14 * i + 3 * np.sin(ROW / rng.uniform(13, 20) + rng.random() * 6)
        drift = stripes(math.pi / 2 + rng.uniform(-0.2, 0.2), 7, rng.random(), 0.025)
        c.layer(y, (238 - 7 * i, 242 - 5 * i, 250 - 2 * i), drift)
        c.layer(y + 11, (216, 226, 242))
    _flakes(c, rng)


def desert(c: Canvas, rng: random.Random) -> None:
    """Rippled dunes under a pale sky, with a cactus at one side."""
    c.gradient((150, 206, 232), (250, 232, 196), 80)
    c.ellipse(rng.uniform(16, 112), rng.uniform(14, 24), 8, 8, (255, 246, 196))
    side = rng.choice((rng.uniform(8, 18), rng.uniform(110, 120)))
    for i, colour in enumerate(((232, 190, 128), (222, 172, 106), (240, 200, 138))):
        y = 72 + 13 * i + 6 * np.sin(ROW / rng.uniform(16, 24) + rng.random() * 6)
        ripple = stripes(rng.uniform(1.1, 2.0), rng.uniform(6, 8), rng.random(), 0.085)
        c.layer(y, colour, ripple)
        if i == 0:
            _cactus(c, side, 92)


def sea(c: Canvas, rng: random.Random) -> None:
    """Rows of waves with light crests under a clear sky."""
    c.gradient((156, 214, 246), (228, 244, 250), 56)
    _cloud(c, rng.uniform(14, 114), rng.uniform(14, 30), rng.uniform(7, 10))
    period, drift = rng.uniform(16, 22), rng.random()
    for i in range(7):
        y = 50 + 11.5 * i + 3.2 * np.sin(2 * math.pi * (ROW / period + drift + 0.5 * (i % 2)))
        deep = (48 - 2 * i, 154 - 7 * i, 200 - 5 * i)
        c.layer(y, (130, 200, 224))
        c.layer(y + 2.6, shade(deep, 1.1))
        c.layer(y + 6.5, deep)


def wall(c: Canvas, rng: random.Random) -> None:
    """A wall of grey-brown bricks above wooden boards."""
    tex = bricks(rng.uniform(17, 22), rng.uniform(9, 11), rng.random(), 0.10)
    full = np.zeros(SIDE, np.float32)
    c.layer(full, (184, 158, 144), tex)
    c.layer(full + 104, (112, 90, 78))
    c.layer(full + 107, (176, 142, 104), stripes(rng.uniform(-0.3, 0.3), 13, rng.random(), 0.1))


PAINTERS: dict[str, Callable[[Canvas, random.Random], None]] = {
    f.__name__: f for f in (meadow, night, sunset, snow, desert, sea, wall)
}


def _blades(c: Canvas, rng: random.Random, top: float, light: Colour, dark: Colour) -> None:
    """Rows of leaning grass blades, light and dark by turns, growing towards the viewer."""
    period, lean = rng.uniform(6.5, 8.5), rng.uniform(-0.5, 0.5)
    y = top
    for i in range(int((SIDE - top) / 6) + 2):
        blade = zigzag((XX + lean * (YY - y)) / period + rng.random())
        height = 7 + 0.5 * i
        c.layer(y - height * blade**1.4 + height / 2, dark if i % 2 else light)
        y += 6.5
        period *= 1.04


def _cloud(c: Canvas, x: float, y: float, r: float) -> None:
    for dx, dy, k in ((-1.3, 0.25, 0.7), (0, 0, 1.0), (1.3, 0.2, 0.75)):
        c.ellipse(x + dx * r, y + dy * r, 1.2 * k * r, 0.8 * k * r, (255, 255, 255), None, 0.85)


def _lattice(rng: random.Random, pitch: float, bottom: float) -> list[tuple[float, float]]:
    """Points of a slanted lattice with a random phase: regular enough to be learnt."""
    dx, dy = rng.uniform(0, pitch), rng.uniform(0, pitch)
    rows = int(bottom / pitch) + 1
    return [
        ((i + 0.5 * (j % 2)) * pitch + dx - pitch, j * pitch + dy - 4)
        for j in range(rows)
        for i in range(int(SIDE / pitch) + 2)
    ]


def _stars(c: Canvas, rng: random.Random) -> None:
    for i, (x, y) in enumerate(_lattice(rng, rng.uniform(22, 26), 84)):
        r = (3.0, 2.1)[i % 2]
        points = []
        for k in range(8):
            q = r if k % 2 == 0 else 0.42 * r
            points.append((x + q * math.cos(k * math.pi / 4), y + q * math.sin(k * math.pi / 4)))
        c.polygon(points, (236, 234, 214))


def _flakes(c: Canvas, rng: random.Random) -> None:
    for x, y in _lattice(rng, rng.uniform(21, 25), 76):
        c.ellipse(x, y, 1.7, 1.7, (250, 252, 255))


def _cactus(c: Canvas, x: float, base: float) -> None:
    green, rib = (88, 142, 92), stripes(0, 4.5, 0.2, 0.14)
    for dx, y0, y1 in ((0, base - 32, base), (-7, base - 22, base - 13), (7, base - 26, base - 16)):
        w = 3.4 if dx == 0 else 2.2
        c.ellipse(x + dx, y0, w, w, green, rib)
        c.polygon(
            [(x + dx - w, y0), (x + dx + w, y0), (x + dx + w, y1), (x + dx - w, y1)], green, rib
        )
    c.line([(x - 7, base - 13), (x + 7, base - 16)], green, 3.5)
