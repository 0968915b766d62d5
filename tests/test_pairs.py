from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from ecdiff import pairs
from ecdiff.errors import InputError, PairError
from tests.conftest import make_pair


def test_the_fingerprint_says_which_weights_and_schedule_not_where(
    pair_folder: Path, tmp_path: Path
) -> None:
    original = pairs.fingerprint(pairs.resolve(str(pair_folder)))
    moved = shutil.copytree(pair_folder, tmp_path / "moved")
    retrained = make_pair(tmp_path / "retrained", seed=1)
    rescheduled = make_pair(tmp_path / "rescheduled", seed=0, beta_end=0.02)
    assert pairs.fingerprint(pairs.resolve(str(moved))) == original
    assert pairs.fingerprint(pairs.resolve(str(retrained))) != original
    assert pairs.fingerprint(pairs.resolve(str(rescheduled))) != original


def test_a_stated_revision_lets_a_device_do_without_the_cloud_weights(
    pair_folder: Path, tmp_path: Path
) -> None:
    whole = shutil.copytree(pair_folder, tmp_path / "whole")
    (whole / "pair.json").write_text(json.dumps({"revision": "v2", "guidance": 3.0}))
    device = shutil.copytree(whole, tmp_path / "device")
    next((device / "cloud" / "unet").glob("*.safetensors")).unlink()
    there, here = pairs.resolve(str(whole)), pairs.resolve(str(device))
    assert pairs.fingerprint(there) == pairs.fingerprint(here)
    assert here.guidance == 3.0
    pairs.load(here, "edge", torch.device("cpu"), torch.float32)
    with pytest.raises(PairError, match="unet"):
        pairs.load(here, "cloud", torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("settings", ['{"guidence": 3}', '{"guidance": "much"}', "{"])
def test_a_bad_pair_json_is_named(pair_folder: Path, tmp_path: Path, settings: str) -> None:
    folder = shutil.copytree(pair_folder, tmp_path / "pair")
    (folder / "pair.json").write_text(settings)
    with pytest.raises(PairError, match=r"pair\.json"):
        pairs.resolve(str(folder))


def test_what_is_not_a_pair_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PairError, match=r"model_index\.json is missing"):
        pairs.resolve(str(tmp_path))
    with pytest.raises(InputError, match="reference"):
        pairs.resolve("no-such-pair")


@pytest.mark.parametrize("device", ["quantum", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(InputError, match=device):
        pairs.place(device)


def test_a_dtype_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InputError, match="float7"):
        pairs.place("cpu", "float7")
