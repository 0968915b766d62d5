"""A small classifier that reads a picture's ground truth back: the judge of prompt adherence.

It learns from rendered scenes, half of them passed through the autoencoder, all blurred and noised
a little, so that it judges content and not rendering. The two things of a scene are read in one
order: left before right, upper before lower.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import nn

from ecdiff.reference.data import picture_batch, to_bytes, to_floats
from ecdiff.reference.heads import Examples, load_heads, train_heads, trunk
from ecdiff.reference.models import WEIGHTS
from ecdiff.reference.runs import RunConfig
from ecdiff.reference.scenes import (
    BACKGROUNDS,
    COLOURS,
    OBJECTS,
    SIZES,
    Scene,
    training_scene,
)

ARRANGEMENTS = ("one", "side by side", "stacked")
HEADS = {
    "background": len(BACKGROUNDS),
    "arrangement": len(ARRANGEMENTS),
    "first_object": len(OBJECTS),
    "first_colour": len(COLOURS),
    "first_size": len(SIZES),
    "second_object": len(OBJECTS) + 1,  # the last class is "none"
    "second_colour": len(COLOURS) + 1,
    "second_size": len(SIZES) + 1,
}
UNSAID = "medium"  # captions have no word for it
STAGES = ((3, 24, 2), (24, 48, 2), (48, 96, 2), (96, 96, 1), (96, 128, 2))  # in, out, stride
SCENES = 16384
ROUNDTRIPS = 4096  # of the scenes


class Classifier(nn.Module):
    """Pictures [B, 3, 128, 128] in [-1, 1] to logits: one tensor [B, classes] a head."""

    def __init__(self) -> None:
        super().__init__()
        layers = trunk(STAGES)
        layers += [nn.Conv2d(128, 32, 1), nn.SiLU(), nn.Flatten(), nn.Dropout(0.2)]
        layers += [nn.Linear(32 * 8 * 8, 256), nn.SiLU()]
        self.trunk = nn.Sequential(*layers)
        self.heads = nn.ModuleDict({name: nn.Linear(256, n) for name, n in HEADS.items()})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits by head."""
        features = self.trunk(x)
        return {name: head(features) for name, head in self.heads.items()}


def labels(scenes: list[Scene]) -> dict[str, torch.Tensor]:
    """The right class of every head, each [B]."""
    rows = [_label(scene) for scene in scenes]
    return {name: torch.tensor([row[name] for row in rows]) for name in HEADS}


def _label(scene: Scene) -> dict[str, int]:
    things = scene.things[::-1] if scene.relation == "right of" else scene.things
    row = {
        "background": list(BACKGROUNDS).index(scene.background),
        "arrangement": {None: 0, "above": 2}.get(scene.relation, 1),
        "second_object": len(OBJECTS),
        "second_colour": len(COLOURS),
        "second_size": len(SIZES),
    }
    for order, thing in zip(("first", "second"), things, strict=False):
        row[f"{order}_object"] = OBJECTS.index(thing.what)
        row[f"{order}_colour"] = list(COLOURS).index(thing.colour)
        row[f"{order}_size"] = list(SIZES).index(thing.size)
    return row


@torch.no_grad()
def correct(
    classifier: Classifier, x: torch.Tensor, scenes: list[Scene]
) -> dict[str, torch.Tensor]:
    """Which heads read each picture [B, 3, 128, 128] (in [-1, 1]) as its scene: bool [B] a head.

    A size that the scene's caption does not say cannot be wrong.
    """
    parts = [classifier(part) for part in torch.split(x, 64)]
    wanted = labels(scenes)
    right = {h: torch.cat([p[h] for p in parts]).argmax(1) == wanted[h] for h in HEADS}
    for head in ("first_size", "second_size"):
        right[head] |= wanted[head] == list(SIZES).index(UNSAID)
    return right


def train_classifier(config: RunConfig, vae: AutoencoderKL) -> Classifier:
    """Train on rendered scenes and on what the autoencoder makes of some of them."""
    scenes = _half_with_two_things(SCENES)
    pictures = [to_bytes(picture_batch(scenes[i : i + 64])) for i in range(0, SCENES, 64)]
    blurred = [_roundtrip(vae, pictures[i]) for i in range(ROUNDTRIPS // 64)]
    plain, rebuilt, truth = torch.cat(pictures), torch.cat(blurred), labels(scenes)
    classifier = Classifier()
    train_heads(config, classifier, Examples(plain, rebuilt, truth), _augment)
    return classifier


def load_classifier(folder: Path = WEIGHTS / "classifier") -> Classifier:
    """The shipped classifier, or the one in `folder`, in float32."""
    classifier = Classifier()
    load_heads(classifier, folder)
    return classifier


def _half_with_two_things(count: int) -> list[Scene]:
    """Training scenes, one-object and two-object ones by turns."""
    drawn = (training_scene(seed) for seed in range(8 * count))
    piles: dict[int, list[Scene]] = {1: [], 2: []}
    for scene in drawn:
        piles[len(scene.things)].append(scene)
        if min(len(pile) for pile in piles.values()) >= count // 2:
            break
    return [scene for both in zip(piles[1], piles[2], strict=False) for scene in both][:count]


def _augment(x: torch.Tensor, g: torch.Generator) -> torch.Tensor:
    """Blur by a random amount, add a little noise and move by up to 4 pixels."""
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    share = torch.rand(len(x), 1, 1, 1, generator=g)
    x = x + share * (soft - x)
    x = x + 0.08 * torch.rand(len(x), 1, 1, 1, generator=g) * torch.randn(x.shape, generator=g)
    dx, dy = torch.randint(-4, 5, (2,), generator=g).tolist()
    return F.pad(x, (4, 4, 4, 4), mode="replicate")[..., 4 + dy : 132 + dy, 4 + dx : 132 + dx]


@torch.no_grad()
def _roundtrip(vae: AutoencoderKL, pictures: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        z = vae.encode(to_floats(pictures)).latent_dist.sample()
        return to_bytes(vae.decode(z).sample.float())
