"""Loading: memory options, missing variants, and who refuses what."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.hooks import add_hook_to_module
from conftest import a_request, finish
from diffusers import UNet2DConditionModel
from test_cli import PROMPT, assert_one_line, call

from ecdiff import EdgeCloudPipeline, launch, pairs
from ecdiff.errors import InputError, PairError
from ecdiff.families.loading import Loader, Once, TakeTurns
from ecdiff.families.sd import StableDiffusion
from ecdiff.pairs import Pair
from ecdiff.plan import cloud_only
from ecdiff.sources import Memory, Side, Source

CPU = (torch.device("cpu"), torch.float32)
OFFLOAD = Memory(offload=True)


def test_offload_without_a_gpu_is_refused(pair: Pair, pair_folder: Path, folder: Path) -> None:
    with pytest.raises(InputError, match="no GPU"):
        pairs.load(pair, "edge", *CPU, OFFLOAD)
    with pytest.raises(InputError, match="no GPU"):
        EdgeCloudPipeline.from_pretrained(pair, device="cpu", offload=True)
    for words in (["generate", PROMPT, "--method", "edge"], ["serve"]):
        result = call(*words, "--pair", pair_folder, "--device", "cpu", "--offload")
        assert (result.exit_code, result.stdout) == (2, "")
        assert_one_line(result.stderr)
        assert "there is no GPU" in result.stderr
    assert list(folder.iterdir()) == []


def test_a_server_of_our_own_is_told(pair_folder: Path) -> None:
    with (
        launch.local_server(str(pair_folder), "cpu", None, OFFLOAD) as server,
        pytest.raises(InputError, match="there is no GPU"),
    ):
        server.url()


def test_one_part_at_a_time_is_on_the_device() -> None:
    """ "meta" stands in for the GPU; nothing comes back from there, so two parts take one turn."""
    turns = TakeTurns(torch.device("meta"))
    parts = [add_hook_to_module(torch.nn.Linear(2, 2), turns) for _ in range(2)]
    assert [next(part.parameters()).device.type for part in parts] == ["cpu", "cpu"]
    on = torch.zeros(1, 2, device="meta")
    with torch.inference_mode():  # as networks are called
        assert parts[0](on).device.type == "meta"
        assert parts[0](on).device.type == "meta"
    assert [next(part.parameters()).device.type for part in parts] == ["meta", "cpu"]


def test_offload_moves_parts_in_turn_and_changes_nothing(
    pair: Pair, edge_model: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the CPU in the GPU's place: the moves are real, their order is what is looked at."""
    monkeypatch.setattr(Memory, "check", lambda self, device: None)
    careful: Any = pairs.load(pair, "edge", *CPU, OFFLOAD)
    moves: list[tuple[str, str]] = []
    move = torch.nn.Module.to

    def told(self: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.nn.Module:
        moves.append((type(self).__name__, "back" if args[0] == "cpu" else "on"))
        return move(self, *args, **kwargs)

    for kind in {type(part) for part in (careful.unet, careful.vae, careful.text_encoder)}:
        monkeypatch.setattr(kind, "to", told)
    request, plan = a_request(seeds=(1,)), cloud_only(3)
    [t], [same] = finish(careful, request, plan), finish(edge_model, request, plan)
    assert torch.equal(t.latents, same.latents)
    assert torch.equal(careful.decode(t.latents), edge_model.decode(t.latents))
    assert moves == [
        ("CLIPTextModel", "on"),
        ("CLIPTextModel", "back"),
        ("UNet2DConditionModel", "on"),
        ("UNet2DConditionModel", "back"),
        ("AutoencoderKL", "on"),
    ]


def test_a_vae_that_cannot_be_tiled_says_so(tmp_path: Path) -> None:
    loader: Any = Loader(Side(Source(str(tmp_path))), *CPU, Memory(vae_tiling=True))
    loader.part = lambda *args: torch.nn.Linear(1, 1)
    with pytest.raises(InputError, match="Linear has no tiling"):
        loader.vae(now=True)


def test_once_makes_once_and_tries_again_after_a_failure() -> None:
    calls: Counter[str] = Counter()

    def make() -> str:
        calls["made"] += 1
        if calls["made"] == 1:
            raise PairError("not yet")
        return "it"

    once = Once(make)
    with pytest.raises(PairError):
        once()
    assert (once(), once(), calls["made"]) == ("it", "it", 2)


def test_weights_that_do_not_fit_are_one_line(pair_folder: Path, tmp_path: Path) -> None:
    """A pruned network whose configuration does not say its widths."""
    shutil.copytree(pair_folder / "edge" / "unet", tmp_path / "unet")
    config = tmp_path / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"block_out_channels": [16, 16]}))
    loader = Loader(Side(Source(str(tmp_path))), *CPU)
    with pytest.raises(PairError, match=r"cannot load unet") as caught:
        loader.network(UNet2DConditionModel, "unet")
    assert "\n" not in str(caught.value)


def test_a_missing_variant_is_taken_from_the_plain_files(pair_folder: Path) -> None:
    def unet(variant: str | None) -> Any:
        side = Side(Source(str(pair_folder / "cloud"), variant=variant))
        return Loader(side, torch.device("cpu"), torch.float16).network(
            UNet2DConditionModel, "unet"
        )

    plain, other = unet(None).state_dict(), unet("fp16").state_dict()
    assert {tensor.dtype for tensor in other.values()} == {torch.float16}
    assert all(torch.equal(plain[name], other[name]) for name in plain)
