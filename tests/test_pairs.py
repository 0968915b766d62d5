from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from ecdiff import EdgeCloudPipeline, console, pairs
from ecdiff.cli import app
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


MY_TOML = """
family = "sd"
size = [48, 32]
guidance = 4.5
licence = "my own"
dtype = "bfloat16"

[cloud]
model = "big"
vram_gb = 3

[edge]
model = "big"
network = "small"

[plan]
warmup = 3
skip = 1
smoothing = 0.5
handoff_step = 6
steps = 8
"""


@pytest.fixture
def my_toml(pair_folder: Path, tmp_path: Path) -> Path:
    """A pair of a user's own: folders beside the file."""
    shutil.copytree(pair_folder / "cloud", tmp_path / "big")
    shutil.copytree(pair_folder / "edge", tmp_path / "small")
    file = tmp_path / "my.toml"
    file.write_text(MY_TOML)
    return file


def test_a_file_says_all_of_a_pair(
    my_toml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folders are looked for beside it, from wherever it is used."""
    pair = pairs.resolve(str(my_toml))
    assert (pair.name, pair.width, pair.height, pair.licence) == ("my", 48, 32, "my own")
    assert (pair.defaults.skip, pair.defaults.steps, pair.guidance) == (1, 8, 4.5)
    assert (pair.dtype, pair.vram_gb) == ("bfloat16", {"cloud": 3.0})
    assert pair.cloud.network is None
    assert pair.edge.network is not None
    assert Path(pair.edge.network.repo) == tmp_path / "small"
    entry = pairs.describe(pair)
    assert entry["sources"]["edge"] == {
        "model": str(tmp_path / "big"),
        "network": str(tmp_path / "small"),
    }
    monkeypatch.chdir(tmp_path / "big")
    assert pairs.fingerprint(pairs.resolve("../my.toml")) == entry["fingerprint"]


def test_generate_with_a_pair_of_ones_own(
    my_toml: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--pair", "my.toml", "--method", "edge", "--steps", "2", "--json"]
    result = CliRunner().invoke(app, ["generate", "a red house", *words])
    assert (result.exit_code, result.stderr) == (0, "")
    receipt = json.loads(result.stdout)
    assert (receipt["pair"], receipt["size"], receipt["guidance"]) == ("my", "48x32", 4.5)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("guidance = 4.5", "guidence = 4.5", "guidence"),
        ("guidance = 4.5", 'guidance = "much"', "guidance"),
        ('family = "sd"', 'family = "flux"', "'sd', 'sdxl' or 'cogvideox'"),
        ('family = "sd"', "", "family"),
        ("size = [48, 32]", "", "size"),
        ("size = [48, 32]", "size = [48]", "size"),
        ("size = [48, 32]", "size = [50, 32]", "width is 50"),
        ("size = [48, 32]", "size = [48, 32]\nframes = 0", "frames is 0"),
        ("size = [48, 32]", "size = [48, 32]\nfps = 0", "fps is 0"),
        ("guidance = 4.5", "guidance = -1.0", "guidance is -1"),
        ("guidance = 4.5", "guidance = nan", "guidance is nan"),
        ('[cloud]\nmodel = "big"\nvram_gb = 3', "", "cloud"),
        ('network = "small"', 'netwerk = "small"', "edge.netwerk"),
        ("skip = 1", "skip = -1", "skip"),
        ("skip = 1", "", "plan.skip"),
        ("steps = 8", "stepps = 8", "plan.stepps"),
        ("handoff_step = 6", "handoff_step = 9", "handoff"),
        ("smoothing = 0.5", "smoothing = 2.0", "smoothing"),
        ("[plan]", "[plan", "my.toml"),
        ('"bfloat16"', '"float7"', "dtype"),
        ('model = "big"', 'model = "no/such/folder"', "no/such/folder"),
    ],
)
def test_a_bad_file_is_one_line(my_toml: Path, old: str, new: str, said: str) -> None:
    my_toml.write_text(MY_TOML.replace(old, new))
    with pytest.raises((PairError, InputError)) as caught:
        pairs.fingerprint(pairs.resolve(str(my_toml)))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match=r"no pair file nowhere\.toml: .*docs/pairs\.md"):
        pairs.resolve("nowhere.toml")


@pytest.mark.parametrize(
    ("name", "folder", "changes"),
    [
        ("latent_channels", "small/unet", {"in_channels": 16}),
        ("text_width", "small/unet", {"cross_attention_dim": 2048}),
    ],
)
def test_two_models_without_a_common_latent_space_are_refused(
    my_toml: Path, name: str, folder: str, changes: dict[str, int]
) -> None:
    config = my_toml.parent / folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    pair = pairs.resolve(str(my_toml))
    with pytest.raises(PairError, match=rf"my is not a pair: {name} is .* in the cloud and"):
        pairs.fingerprint(pair)
    with pytest.raises(PairError, match=name):
        EdgeCloudPipeline.from_pretrained(pair, device="cpu")


def test_the_dtype_is_the_pairs_own_on_a_gpu_only(my_toml: Path) -> None:
    """ "meta" stands in for the GPU."""
    pair = pairs.resolve(str(my_toml))
    assert pairs.place("meta", None, pair)[1] == torch.bfloat16
    assert pairs.place("meta", "float16", pair)[1] == torch.float16
    assert pairs.place("meta", None, replace(pair, dtype=None))[1] == torch.float16
    assert pairs.place("cpu", None, pair)[1] == torch.float32


@pytest.mark.parametrize("name", pairs.names())
def test_every_named_pair_is_one_line_of_the_docs(name: str) -> None:
    """docs/pairs.md says of each pair what its file says."""
    page = (Path(__file__).parents[1] / "docs" / "pairs.md").read_text()
    [row] = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
    pair = pairs.resolve(name)
    plan = pair.defaults
    frames = f", {pair.frames} frames" if pair.frames else ""
    vram = console.vram(pair.vram_gb)
    for cell in (
        f"{pair.width}x{pair.height}{frames}",
        f"{pair.guidance:g}",
        f"{plan.warmup}, {plan.skip}, {plan.smoothing:g}, {plan.handoff_step}",
        vram if pair.vram_gb else "-",
        pair.licence,
    ):
        assert f"| {cell} |" in row
    if pair.vram_gb:
        for source in (pair.cloud.model, pair.edge.network or pair.edge.model):
            assert f"https://huggingface.co/{source.repo})" in page
    assert f"--pair {name}" in page
