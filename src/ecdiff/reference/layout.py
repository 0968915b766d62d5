"""Where a scene's objects are, cell by cell: a second thing to learn that teaches binding early.

Noise alone says little about words: a picture of two objects is cheap to get nearly right with the
wrong one on the left. Since we draw the scenes, we know what every latent cell shows. The text
encoder first learns to say it from the caption alone (`train_text`), and the cloud's U-Net goes on
saying it from its middle block while it learns to denoise, in the spirit of representation
alignment (REPA, Yu et al. 2025), with the ground truth in place of a pretrained vision model.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from ecdiff.reference.canvas import SIDE
from ecdiff.reference.data import caption_ids, token_ids
from ecdiff.reference.models import written_out_attention
from ecdiff.reference.runs import Run, RunConfig
from ecdiff.reference.scenes import BACKGROUNDS, COLOURS, OBJECTS, Scene, training_scene

CELLS = 8  # a side
NOTHING_WEIGHT = 0.3  # of a cell without an object: most cells are
TEXT_SCENES = 200_000


def layout_labels(scenes: list[Scene]) -> torch.Tensor:
    """Object and colour of every cell, [B, 2, 64]; the class after the last one is "nothing"."""
    labels = torch.empty(len(scenes), 2, CELLS * CELLS, dtype=torch.long)
    labels[:, 0], labels[:, 1] = len(OBJECTS), len(COLOURS)
    for row, scene in zip(labels, scenes, strict=True):
        for thing in scene.things:
            inside = covered(thing.x, thing.y, thing.radius, SIDE)
            row[0][inside] = OBJECTS.index(thing.what)
            row[1][inside] = list(COLOURS).index(thing.colour)
    return labels


def covered(x: float, y: float, radius: float, side: int) -> torch.Tensor:
    """Which cells [64] of a picture of `side` pixels have their middle in that circle."""
    centre = (torch.arange(CELLS) + 0.5) * side / CELLS
    return ((centre[None, :] - x) ** 2 + (centre[:, None] - y) ** 2 < radius**2).flatten()


class LayoutHead(nn.Module):
    """Features of cells to the layout's loss, for so many objects and colours."""

    def __init__(self, width: int, objects: int = len(OBJECTS), colours: int = len(COLOURS)):
        super().__init__()
        self.sizes = (objects + 1, colours + 1)
        self.read = nn.Linear(width, sum(self.sizes))

    def loss(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of objects plus that of colours.

        features [B, cells, width], labels [B, 2, cells]; the last class is "nothing".
        """
        logits = self.read(features.float()).mT.split(self.sizes, dim=1)
        losses = []
        for part, wanted in zip(logits, labels.unbind(1), strict=True):
            weight = torch.ones(part.shape[1], device=part.device)
            weight[-1] = NOTHING_WEIGHT
            losses.append(F.cross_entropy(part, wanted, weight))
        return torch.stack(losses).sum()


def backgrounds(scenes: list[Scene]) -> torch.Tensor:
    """The background of every scene, [B]."""
    return torch.tensor([list(BACKGROUNDS).index(scene.background) for scene in scenes])


class BackgroundHead(nn.Module):
    """Tells the background from the mean of a caption's states.

    Without it an encoder that learns the layout alone comes to say "in the snow" and "in the
    desert" alike, and the cloud never learns to tell them apart again.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.read = nn.Linear(width, len(BACKGROUNDS))

    def loss(self, text: torch.Tensor, wanted: torch.Tensor, empty: torch.Tensor) -> torch.Tensor:
        """Cross-entropy over the captions text [B, L, width] that are not `empty` [B]."""
        logits = self.read(text.float().mean(1))
        return F.cross_entropy(logits[~empty], wanted[~empty])


class TextLayout(nn.Module):
    """Text states [B, L, width] to features [B, 64, width]: one query a cell, two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(CELLS * CELLS, width) * 0.3)
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(
                width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True
            )
            for _ in range(2)
        )

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        """What the caption alone says about every cell."""
        x = self.queries.expand(len(text), -1, -1)
        for layer in self.layers:
            x = layer(x, text)
        return x


def train_text(config: RunConfig, encoder: CLIPTextModel, tokenizer: CLIPTokenizer) -> None:
    """Teach the text encoder to tell a scene's layout and background from its caption.

    It ends up averaged.
    """
    width = encoder.config.hidden_size
    written_out_attention(encoder)
    reader, head, place = TextLayout(width), LayoutHead(width), BackgroundHead(width)
    modules = {"text_encoder": encoder.train(), "reader": reader, "head": head, "place": place}
    run = Run(config, modules)
    nothing = token_ids(tokenizer, [""]).to(config.device)

    def loss_of_step(g: torch.Generator) -> torch.Tensor:
        seeds = torch.randint(TEXT_SCENES, (config.batch,), generator=g).tolist()
        ids = caption_ids(tokenizer, seeds, g).to(config.device)
        scenes = [training_scene(seed) for seed in seeds]
        labels, wanted = layout_labels(scenes), backgrounds(scenes)
        with torch.autocast(config.device, torch.bfloat16):
            text = encoder(ids).last_hidden_state
            features = reader(text)
        empty = (ids == nothing).all(1)
        told = place.loss(text, wanted.to(config.device), empty)
        return head.loss(features, labels.to(config.device)) + told

    run.train(loss_of_step)
