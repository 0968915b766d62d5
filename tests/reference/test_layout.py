"""Layouts: labels say what the drawn scene shows, and a head that learns them learns the words."""

from __future__ import annotations

import torch

from ecdiff.reference.layout import (
    CELLS,
    BackgroundHead,
    LayoutHead,
    backgrounds,
    layout_labels,
)
from ecdiff.reference.scenes import BACKGROUNDS, COLOURS, OBJECTS, held_out_scenes


def test_labels_say_which_object_is_where() -> None:
    for scene in held_out_scenes(40, things=2):
        labels = layout_labels([scene])[0].unflatten(1, (CELLS, CELLS))
        named = {(int(a), int(b)) for a, b in labels.flatten(1).T} - {(len(OBJECTS), len(COLOURS))}
        colours = list(COLOURS)
        wanted = {(OBJECTS.index(t.what), colours.index(t.colour)) for t in scene.things}
        assert named == wanted
        first = (labels[0] == OBJECTS.index(scene.things[0].what)).nonzero().float().mean(0)
        second = (labels[0] == OBJECTS.index(scene.things[1].what)).nonzero().float().mean(0)
        (dy, dx) = (first - second).tolist()
        where = {"left of": dx < 0, "right of": dx > 0, "above": dy < 0}
        assert where[scene.relation or ""]


def test_the_head_is_pleased_by_the_truth_and_by_nothing_else() -> None:
    labels = layout_labels(held_out_scenes(4, things=2))
    head = LayoutHead(8)
    sizes = (len(OBJECTS) + 1, len(COLOURS) + 1)
    assert head.loss(torch.zeros(4, CELLS**2, 8), labels).isfinite()
    truth = torch.cat(
        [torch.nn.functional.one_hot(labels[:, i], n) for i, n in enumerate(sizes)], dim=-1
    ).float()
    head.read = torch.nn.Identity()
    assert float(head.loss(50 * truth, labels)) < 1e-6
    assert float(head.loss(50 * truth.roll(1, dims=-1), labels)) > 10


def test_the_background_is_told_from_the_words_and_never_from_an_empty_caption() -> None:
    scenes = held_out_scenes(40)
    wanted, head = backgrounds(scenes), BackgroundHead(len(BACKGROUNDS))
    head.read = torch.nn.Identity()
    text = 50.0 * torch.nn.functional.one_hot(wanted, len(BACKGROUNDS)).float()[:, None]
    none = torch.zeros(40, dtype=torch.bool)
    assert float(head.loss(text, wanted, none)) < 1e-6
    text[7] = text[7].roll(1, dims=-1)
    assert float(head.loss(text, wanted, none)) > 1
    none[7] = True
    assert float(head.loss(text, wanted, none)) < 1e-6
