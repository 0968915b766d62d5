"""Draw a scene. No torch."""

from __future__ import annotations

import random

from PIL import Image

from ecdiff.reference.backgrounds import PAINTERS
from ecdiff.reference.canvas import Canvas
from ecdiff.reference.objects import DRAWERS, Brush, rim_of
from ecdiff.reference.scenes import COLOURS, FLOATING, Scene


def render(scene: Scene) -> Image.Image:
    """The 128 x 128 RGB picture of a scene; the same scene gives the same pixels."""
    rng = random.Random(f"render-{scene}")
    canvas = Canvas()
    PAINTERS[scene.background](canvas, rng)
    for thing in scene.things:
        r, g, b = (v + rng.uniform(-7, 7) for v in COLOURS[thing.colour])
        colour = (min(max(r, 0.0), 255.0), min(max(g, 0.0), 255.0), min(max(b, 0.0), 255.0))
        if thing.what not in FLOATING and scene.relation != "above":
            x, y = thing.x, thing.y + 0.92 * thing.radius
            canvas.ellipse(x, y, thing.radius, 0.14 * thing.radius, (20, 20, 40), None, 0.3)
        brush = Brush(canvas, rng, thing.x, thing.y, thing.radius, colour, rim_of(colour))
        DRAWERS[thing.what](brush)
    return canvas.image()
