"""Whether the reference pair's pictures show what their prompts ask for, by its own classifier."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from ecdiff.reference.classifier import HEADS, Classifier, correct, load_classifier
from ecdiff.reference.scenes import Scene, caption, held_out_combinations, held_out_scenes


@cache
def known_scenes() -> dict[str, Scene]:
    """The held-out scenes by their plain caption."""
    count = len(held_out_combinations())
    scenes = [scene for things in (1, 2) for scene in held_out_scenes(count, things)]
    return {caption(scene): scene for scene in scenes}


def adherence(pictures: Tensor, prompts: Sequence[str]) -> list[float | None]:
    """1 where a picture [B, 3, 128, 128] in [0, 1] has everything right that its prompt says
    (objects, colours, arrangement, background), else 0; None for a prompt of no known scene."""
    scenes = known_scenes()
    judged = [i for i, prompt in enumerate(prompts) if prompt in scenes]
    out: list[float | None] = [None] * len(prompts)
    if judged:
        asked = [scenes[prompts[i]] for i in judged]
        right = correct(_classifier(), pictures[judged].float().cpu() * 2 - 1, asked)
        everything = torch.stack([right[head] for head in HEADS]).all(0)
        for i, value in zip(judged, everything.tolist(), strict=True):
            out[i] = float(value)
    return out


@cache
def _classifier() -> Classifier:
    return load_classifier()
