"""The sixteen things in the scenes, each drawn in one colour with its own texture. No torch."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from ecdiff.reference.canvas import (
    Canvas,
    Colour,
    Texture,
    bricks,
    rays,
    scales,
    shade,
    stripes,
)

WOOD: Colour = (122, 82, 52)
GLASS: Colour = (196, 228, 244)
LEAF: Colour = (70, 150, 70)


@dataclass(frozen=True)
class Brush:
    """Draws in an object's own frame: x and y in [-1, 1], y down, scaled by `radius` pixels."""

    canvas: Canvas
    rng: random.Random
    x: float
    y: float
    radius: float
    colour: Colour
    rim: Colour

    def at(self, u: float, v: float) -> tuple[float, float]:
        """A point of the frame in pixels."""
        return self.x + u * self.radius, self.y + v * self.radius

    def poly(
        self, points: list[tuple[float, float]], colour: Colour, texture: Texture | None = None,
        rim: bool = True,
    ) -> None:  # fmt: skip
        """A polygon, by default with the object's rim around it."""
        pixels = [self.at(*p) for p in points]
        self.canvas.polygon(pixels, colour, texture)
        if rim:
            self.canvas.line([*pixels, pixels[0], pixels[1]], self.rim, 2.0)

    def oval(
        self, u: float, v: float, ru: float, rv: float, colour: Colour,
        texture: Texture | None = None, rim: bool = True,
    ) -> None:  # fmt: skip
        """An ellipse, by default with the object's rim around it."""
        x, y = self.at(u, v)
        a, b = ru * self.radius, rv * self.radius
        if rim:
            self.canvas.ellipse(x, y, a + 1, b + 1, self.rim)
            a, b = a - 1, b - 1
        self.canvas.ellipse(x, y, a, b, colour, texture)

    def stroke(self, points: list[tuple[float, float]], colour: Colour, width: float) -> None:
        """A polyline; width in pixels."""
        self.canvas.line([self.at(*p) for p in points], colour, width)

    def bands(self, contrast: float = 0.13) -> Texture:
        """Stripes at a random angle and spacing."""
        rng = self.rng
        return stripes(rng.uniform(0, math.pi), rng.uniform(7, 10), rng.random(), contrast)

    def rays(self, count: int, u: float = 0, v: float = 0) -> Texture:
        """Sectors around a point of the frame."""
        return rays(*self.at(u, v), count, self.rng.random())

    def scales(self, period: float) -> Texture:
        """Overlapping rounds, `period` pixels wide."""
        return scales(period * self.rng.uniform(0.9, 1.1), self.rng.random())


def rim_of(colour: Colour) -> Colour:
    """The outline that keeps a colour readable on every background."""
    return shade(colour, 0.45) if sum(colour) > 200 else (168, 168, 178)


def arc(
    u: float, v: float, ru: float, rv: float, start: float, stop: float, count: int = 24
) -> list[tuple[float, float]]:
    """Points on an ellipse, angles in degrees, clockwise from the right."""
    angles = (math.radians(start + (stop - start) * i / (count - 1)) for i in range(count))
    return [(u + ru * math.cos(a), v + rv * math.sin(a)) for a in angles]


def circle(b: Brush) -> None:
    b.oval(0, 0, 0.9, 0.9, b.colour, b.bands())


def square(b: Brush) -> None:
    b.poly([(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)], b.colour, b.bands())


def triangle(b: Brush) -> None:
    b.poly([(0, -0.95), (0.95, 0.75), (-0.95, 0.75)], b.colour, b.bands())


def star(b: Brush) -> None:
    points = []
    for k in range(10):
        r, a = (1.0 if k % 2 == 0 else 0.45), math.pi * (k / 5 - 0.5)
        points.append((r * math.cos(a), r * math.sin(a) + 0.05))
    b.poly(points, b.colour, b.rays(10))


def heart(b: Brush) -> None:
    points = []
    for k in range(40):
        t = 2 * math.pi * k / 40
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((math.sin(t) ** 3, -y / 16.5 - 0.05))
    b.poly(points, b.colour, b.bands())


def house(b: Brush) -> None:
    tex = bricks(b.rng.uniform(11, 14), b.rng.uniform(6.5, 8), b.rng.random(), 0.12)
    b.poly([(0.42, -0.55), (0.42, -0.95), (0.64, -0.95), (0.64, -0.3)], shade(b.colour, 0.8))
    b.poly([(-0.75, -0.1), (0.75, -0.1), (0.75, 0.95), (-0.75, 0.95)], b.colour, tex)
    b.poly([(0, -0.95), (1.0, -0.08), (-1.0, -0.08)], (112, 104, 116), b.scales(8))
    b.poly([(-0.18, 0.35), (0.18, 0.35), (0.18, 0.95), (-0.18, 0.95)], WOOD)
    for u in (-0.5, 0.5):
        b.poly(
            [(u - 0.16, 0.15), (u + 0.16, 0.15), (u + 0.16, 0.5), (u - 0.16, 0.5)], (255, 236, 160)
        )


def tree(b: Brush) -> None:
    b.poly([(-0.15, 0.1), (0.15, 0.1), (0.22, 0.98), (-0.22, 0.98)], WOOD, stripes(0, 5, 0))
    lobes = ((-0.45, -0.05, 0.46), (0.45, -0.05, 0.46), (0, -0.45, 0.54))
    for u, v, r in lobes:
        b.oval(u, v, r, r * 0.95, b.colour)
    leaves = b.scales(9)
    for u, v, r in (*lobes, (0, -0.1, 0.45)):
        b.oval(u, v, r - 0.06, r * 0.95 - 0.06, b.colour, leaves, rim=False)


def fish(b: Brush) -> None:
    fin = stripes(math.pi / 2, 6, b.rng.random())
    b.poly([(0.45, 0), (1.0, -0.5), (0.86, 0), (1.0, 0.5)], shade(b.colour, 0.85), fin)
    b.poly([(-0.3, -0.35), (0.15, -0.75), (0.4, -0.25)], shade(b.colour, 0.85), fin)
    b.oval(-0.15, 0, 0.8, 0.52, b.colour, b.scales(9))
    b.poly(arc(-0.15, 0, 0.78, 0.5, 120, 240), shade(b.colour, 1.15), rim=False)
    b.oval(-0.6, -0.12, 0.11, 0.11, (255, 255, 255))
    b.oval(-0.61, -0.12, 0.06, 0.06, (20, 20, 24), rim=False)


def car(b: Brush) -> None:
    b.poly([(-0.55, 0.05), (-0.35, -0.42), (0.35, -0.42), (0.62, 0.05)], b.colour)
    b.poly([(-0.4, 0.02), (-0.27, -0.3), (-0.04, -0.3), (-0.04, 0.02)], GLASS, b.bands(0.06), False)
    b.poly([(0.06, 0.02), (0.06, -0.3), (0.28, -0.3), (0.45, 0.02)], GLASS, b.bands(0.06), False)
    body = [(-1, 0.12), (-0.9, 0.02), (0.85, 0.02), (1, 0.2), (1, 0.55), (-1, 0.55)]
    b.poly(body, b.colour, stripes(math.pi / 2, 8, b.rng.random(), 0.12))
    for u in (-0.52, 0.55):
        b.oval(u, 0.58, 0.25, 0.25, (40, 40, 46))
        b.oval(u, 0.58, 0.13, 0.13, (200, 200, 206), b.rays(5, u, 0.58), rim=False)
    b.oval(0.9, 0.27, 0.08, 0.08, (255, 240, 170), rim=False)


def boat(b: Brush) -> None:
    sail = stripes(b.rng.uniform(-0.4, 0.4), b.rng.uniform(7, 9), b.rng.random(), 0.07)
    b.stroke([(0, -0.95), (0, 0.4)], WOOD, 2.5)
    b.poly([(0.07, -0.85), (0.75, 0.22), (0.07, 0.22)], (246, 242, 230), sail)
    b.poly([(-0.07, -0.65), (-0.07, 0.22), (-0.55, 0.22)], (232, 226, 210), sail)
    hull = [(-0.95, 0.32), (0.98, 0.32), (0.65, 0.86), (-0.65, 0.86)]
    b.poly(hull, b.colour, stripes(math.pi / 2, b.rng.uniform(6.5, 8), b.rng.random()))


def flower(b: Brush) -> None:
    b.stroke([(0, 0.1), (0.05, 0.98)], LEAF, max(2.5, 0.09 * b.radius))
    for u in (-0.3, 0.38):
        b.oval(u, 0.72, 0.28, 0.12, LEAF, stripes(0.5, 5, 0), rim=False)
    start = b.rng.uniform(0, 60)
    for k in range(6):
        a = math.radians(start + 60 * k)
        u, v = 0.4 * math.cos(a), -0.3 + 0.4 * math.sin(a)
        b.oval(u, v, 0.29, 0.29, b.colour, b.rays(7, u * 0.4, -0.3 + (v + 0.3) * 0.4))
    b.oval(0, -0.3, 0.24, 0.24, (246, 196, 60), b.scales(5))


def mushroom(b: Brush) -> None:
    gills = stripes(0, b.rng.uniform(5, 6.5), b.rng.random(), 0.1)
    b.poly([(-0.24, 0), (0.24, 0), (0.32, 0.9), (-0.32, 0.9)], (240, 226, 200), gills)
    b.poly(arc(0, 0.12, 0.95, 0.95, 180, 360), b.colour, b.scales(10))
    shift = b.rng.uniform(-0.08, 0.08)
    spots = (250, 246, 236) if sum(b.colour) < 640 else (196, 70, 60)
    for u, v, r in ((-0.5, -0.2, 0.14), (0.02, -0.5, 0.17), (0.5, -0.18, 0.14), (0, -0.06, 0.11)):
        b.oval(u + shift, v, r, r, spots, rim=False)


def balloon(b: Brush) -> None:
    sway = b.rng.uniform(-0.15, 0.15)
    b.stroke([(0, 0.5), (sway, 0.75), (-sway, 1.0)], (236, 232, 220), 1.6)
    b.poly([(-0.1, 0.62), (0.1, 0.62), (0, 0.45)], shade(b.colour, 0.8))
    b.oval(0, -0.2, 0.66, 0.76, b.colour, b.rays(14, 0, 0.9))
    b.oval(-0.25, -0.5, 0.12, 0.17, shade(b.colour, 1.6), rim=False)


def butterfly(b: Brush) -> None:
    for s in (-1, 1):
        b.oval(s * 0.52, -0.3, 0.44, 0.46, b.colour, b.rays(11, s * 0.05, 0))
        b.oval(s * 0.42, 0.42, 0.34, 0.36, shade(b.colour, 0.88), b.rays(11, s * 0.05, 0))
        b.oval(s * 0.6, -0.36, 0.15, 0.15, shade(b.colour, 1.6), rim=False)
        b.stroke([(0, -0.5), (s * 0.2, -0.9)], (60, 52, 56), 1.6)
    b.oval(0, 0, 0.1, 0.62, (74, 60, 60), stripes(math.pi / 2, 5, 0), rim=False)


def umbrella(b: Brush) -> None:
    b.stroke([(0, -0.9), (0, 0.75), (0.08, 0.9), (0.22, 0.9), (0.28, 0.75)], WOOD, 2.5)
    dome = arc(0, 0.12, 1.0, 0.95, 180, 360)
    hem = [(1 - k / 18, 0.12 - 0.13 * abs(math.sin(k / 9 * math.pi))) for k in range(37)]
    b.poly(dome + hem, b.colour, b.rays(16, 0, -0.9 + 0.2))


def cup(b: Brush) -> None:
    b.oval(0.62, 0.22, 0.32, 0.32, b.colour)
    b.oval(0.62, 0.22, 0.17, 0.17, b.rim, rim=False)
    band = stripes(b.rng.uniform(1.2, 1.9), b.rng.uniform(7, 9), b.rng.random())
    b.poly([(-0.7, -0.3), (0.62, -0.3), (0.48, 0.85), (-0.56, 0.85)], b.colour, band)
    b.oval(-0.04, -0.3, 0.66, 0.16, (108, 70, 48))
    for u in (-0.28, 0.16):
        wisp = [(u + 0.08 * math.sin(k * 0.9), -0.48 - 0.055 * k) for k in range(9)]
        b.stroke(wisp, (246, 246, 246), 1.8)


DRAWERS: dict[str, Callable[[Brush], None]] = {
    f.__name__: f
    for f in (
        circle, square, triangle, star, heart, house, tree, fish,
        car, boat, flower, mushroom, balloon, butterfly, umbrella, cup,
    )
}  # fmt: skip
