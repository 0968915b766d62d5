"""Distilling the edge: what it sees, and that a perfect edge has nothing to learn."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from ecdiff.reference import distil
from ecdiff.reference.distil import Drawn, drawn_latents, train_edge
from ecdiff.reference.models import load_pipeline
from ecdiff.reference.runs import Budget, Run, RunConfig
from ecdiff.reference.train_pair import Pair

BATCH = 64


@pytest.fixture(scope="module")
def pair() -> Pair:
    pipe = load_pipeline()
    return Pair(pipe.vae, pipe.text_encoder, pipe.tokenizer, pipe.unet)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("distil")


@pytest.fixture(scope="module")
def drawn(pair: Pair, folder: Path) -> Drawn:
    return drawn_latents(pair, 2, folder, "cpu")


def test_the_clouds_pictures_are_drawn_once_a_network(
    pair: Pair, drawn: Drawn, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object) -> None:
        raise AssertionError("drawn again")

    monkeypatch.setattr(distil, "pipeline", never)
    assert torch.equal(drawn_latents(pair, 2, folder, "cpu").latents, drawn.latents)
    other = deepcopy(pair.cloud)
    other.conv_in.bias.data += 1
    with pytest.raises(AssertionError, match="drawn again"):
        drawn_latents(Pair(pair.vae, pair.text_encoder, pair.tokenizer, other), 2, folder, "cpu")


def test_every_other_picture_is_the_clouds_own_and_most_steps_are_late(
    pair: Pair, drawn: Drawn, tmp_path: Path
) -> None:
    scenes = torch.zeros(8, *drawn.latents.shape[1:])
    config = RunConfig(tmp_path, Budget(samples=1), batch=BATCH)
    g = torch.Generator().manual_seed(0)
    batch = distil._batch(scenes, drawn, pair.tokenizer, config, g)
    assert set(batch.guidance[1::2].flatten().tolist()) == set(drawn.guidance.tolist())
    assert batch.ids[1::2].unique(dim=0).shape == drawn.ids.unique(dim=0).shape
    for share, below in distil.TIMESTEPS:
        assert abs(int((batch.t < below).sum()) - share * BATCH) <= 1
    # At its last timesteps x_t is almost the picture, and the scenes here are all zeros.
    last = batch.t < 20
    assert float(batch.x_t[::2][last[::2]].std()) < 0.35
    assert float(batch.x_t[1::2][last[1::2]].std()) > 0.3


def test_a_copy_of_the_cloud_has_nothing_to_learn(
    pair: Pair, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses: dict[str, float] = {}

    def only_look(run: Run, loss: Callable[[torch.Generator], torch.Tensor], _: object) -> None:
        losses[run.config.out.name] = float(loss(torch.Generator().manual_seed(1)).detach())

    monkeypatch.setattr(Run, "train", only_look)
    copy = deepcopy(pair.cloud)
    wrong: UNet2DConditionModel = deepcopy(pair.cloud)
    wrong.conv_out.bias.data += 0.1
    for name, edge in (("copy", copy), ("wrong", wrong)):
        config = RunConfig(folder / name, Budget(samples=1), batch=2)
        train_edge(config, pair, edge, 4, 2, lambda: None)
    assert losses["copy"] < 1e-5
    assert losses["wrong"] > 1e-3
