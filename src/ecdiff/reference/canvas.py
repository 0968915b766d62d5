"""The canvas scenes are drawn on: antialiased shapes and smooth, regular textures. No torch.

Colours are RGB in [0, 255]; positions are pixels of the 128 x 128 picture. A texture is a function
of pixel positions that gives a brightness factor near 1: smooth and of moderate contrast, so that
an 8 x 8 patch of it fits in a few latent numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

SIDE = 128
SUPERSAMPLE = 4
Array = np.ndarray
Colour = tuple[float, float, float]
Texture = Callable[[Array, Array], Array]
Point = tuple[float, float]
Points = Sequence[Point]

YY, XX = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)


class Canvas:
    """One picture in the making: `pixels` is float32 [128, 128, 3] in [0, 255]."""

    def __init__(self) -> None:
        self.pixels = np.zeros((SIDE, SIDE, 3), np.float32)

    def gradient(self, top: Colour, bottom: Colour, y1: float = SIDE) -> None:
        """Fill the whole canvas from `top` at y = 0 to `bottom` at y = y1."""
        t = np.clip(YY[:, :1] / y1, 0, 1)[..., None]
        self.pixels[:] = (1 - t) * np.array(top, np.float32) + t * np.array(bottom, np.float32)

    def blend(self, mask: Array, colour: Colour | Array, box: tuple[slice, slice]) -> None:
        """Lay `colour` over `box` where `mask` (0..1, the shape of the box) says."""
        part = self.pixels[box]
        part += mask[..., None] * (np.asarray(colour, np.float32) - part)

    def layer(self, profile: Array, colour: Colour, texture: Texture | None = None) -> None:
        """Fill everything below the curve y = profile; profile is [128] (or [128, 128])."""
        y0 = max(int(np.min(profile)) - 1, 0)
        box = (slice(y0, SIDE), slice(0, SIDE))
        edge = profile[y0:] if profile.ndim == 2 else profile
        mask = np.clip(YY[box] - edge + 0.5, 0, 1)
        self.blend(mask, self._textured(colour, texture, box), box)

    def polygon(self, points: Points, colour: Colour, texture: Texture | None = None) -> None:
        """Fill a polygon."""
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        self._stamp(
            (min(xs), min(ys), max(xs), max(ys)),
            lambda d, f: d.polygon([f(p) for p in points], fill=255),
            colour,
            texture,
        )

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, colour: Colour,
        texture: Texture | None = None, opacity: float = 1.0,
    ) -> None:  # fmt: skip
        """Fill an axis-parallel ellipse."""
        self._stamp(
            (x - rx, y - ry, x + rx, y + ry),
            lambda d, f: d.ellipse([f((x - rx, y - ry)), f((x + rx, y + ry))], fill=255),
            colour,
            texture,
            opacity,
        )

    def line(self, points: Points, colour: Colour, width: float = 1.5) -> None:
        """Draw a polyline `width` pixels wide."""
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        w = max(1, round(width * SUPERSAMPLE))
        self._stamp(
            (min(xs) - width, min(ys) - width, max(xs) + width, max(ys) + width),
            lambda d, f: d.line([f(p) for p in points], fill=255, width=w, joint="curve"),
            colour,
            None,
        )

    def image(self) -> Image.Image:
        """The picture as an 8-bit RGB image."""
        return Image.fromarray(np.clip(self.pixels + 0.5, 0, 255).astype(np.uint8))

    def _stamp(
        self,
        bounds: tuple[float, float, float, float],
        draw: Callable[[ImageDraw.ImageDraw, Callable[[Point], Point]], None],
        colour: Colour,
        texture: Texture | None,
        opacity: float = 1.0,
    ) -> None:
        x0, y0 = max(int(bounds[0]) - 1, 0), max(int(bounds[1]) - 1, 0)
        x1, y1 = min(int(bounds[2]) + 3, SIDE), min(int(bounds[3]) + 3, SIDE)
        if x1 <= x0 or y1 <= y0:
            return
        s = SUPERSAMPLE
        big = Image.new("L", ((x1 - x0) * s, (y1 - y0) * s))
        draw(ImageDraw.Draw(big), lambda p: ((p[0] - x0 + 0.5) * s, (p[1] - y0 + 0.5) * s))
        mask = np.asarray(big.reduce(s), np.float32) * (opacity / 255)
        box = (slice(y0, y1), slice(x0, x1))
        self.blend(mask, self._textured(colour, texture, box), box)

    @staticmethod
    def _textured(colour: Colour, texture: Texture | None, box: tuple[slice, slice]) -> Array:
        flat = np.asarray(colour, np.float32)
        if texture is None:
            return flat
        return np.clip(flat * texture(XX[box], YY[box])[..., None], 0, 255)


def shade(colour: Colour, factor: float) -> Colour:
    """Darken (factor < 1) or lighten towards white (factor > 1; 2 is white)."""
    c = np.asarray(colour, float)
    c = c * factor if factor <= 1 else c + (255 - c) * (factor - 1)
    return (float(c[0]), float(c[1]), float(c[2]))


def wave(phase: Array) -> Array:
    """A soft square wave in [-1, 1] with period 1."""
    values: Array = np.tanh(2.2 * np.sin(2 * np.pi * phase))
    return values


def zigzag(phase: Array) -> Array:
    """A triangle wave in [0, 1] with period 1, 1 at whole numbers."""
    values: Array = np.abs(2 * (phase % 1) - 1)
    return values


def stripes(angle: float, period: float, phase: float, contrast: float = 0.13) -> Texture:
    """Parallel bands; angle in radians, period in pixels."""
    kx, ky = np.cos(angle) / period, np.sin(angle) / period
    return lambda x, y: 1 + contrast * wave(x * kx + y * ky + phase)


def scales(period: float, phase: float, contrast: float = 0.15) -> Texture:
    """Overlapping rounds in offset rows: fish scales, roof tiles, leaves."""

    def texture(x: Array, y: Array) -> Array:
        v = y / (0.62 * period) + phase
        row = np.floor(v)
        u = (x / period + 0.5 * (row % 2) + phase) % 1 - 0.5
        depth = (v - row) - 0.9 * (1 - 4 * u * u)
        return 1 + contrast * np.tanh(4 * depth)

    return texture


def bricks(width: float, height: float, phase: float, contrast: float = 0.13) -> Texture:
    """Courses of bricks with dark joints, every other course shifted by half a brick."""

    def texture(x: Array, y: Array) -> Array:
        v = y / height + phase
        row = np.floor(v)
        u = x / width + 0.5 * (row % 2) + phase
        flat = (np.abs(v - row - 0.5) - 0.5) * height
        upright = (np.abs(u % 1 - 0.5) - 0.5) * width
        joint = np.maximum(flat, upright) + 1.6
        tint = 0.35 * np.sin(2.4 * np.floor(u) + 4.1 * row)
        return 1 + contrast * (0.35 + tint - 1.5 * np.clip(joint, 0, 1))

    return texture


def rays(cx: float, cy: float, count: int, phase: float, contrast: float = 0.13) -> Texture:
    """Sectors around a centre: petals' veins, umbrella panels."""
    return lambda x, y: (
        1 + contrast * wave(np.arctan2(y - cy, x - cx) * count / (2 * np.pi) + phase)
    )
