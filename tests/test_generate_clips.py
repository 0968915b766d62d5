"""`ecdiff generate` for a pair that draws clips, and few-step splits of one that draws pictures."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import httpx
import numpy as np
import pytest
from conftest import running
from PIL import Image
from test_cli import COMMAND, ENV, PROMPT, assert_one_line, call
from test_clips import read_mp4
from tiny import make_cogvideox_pair

from ecdiff import EdgeCloudPipeline

STEPS = {"steps": 8, "warmup": 3, "skip": 1, "handoff_step": 6}
FRAMES = 9


@pytest.fixture(scope="module")
def video_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cogvideox_pair(tmp_path_factory.mktemp("video"))


def options(**values: object) -> list[str]:
    words = []
    for name, value in values.items():
        words += ["--" + name.replace("_", "-"), str(value)]
    return words


def generate(pair: Path, out: Path, *words: str) -> dict[str, object]:
    """The receipt of a process of its own, with a server of its own."""
    told = [*options(pair=pair, out=out, seed=7, frames=FRAMES, **STEPS), *words, "--json"]
    done = subprocess.run(
        [*COMMAND, "generate", PROMPT, *told],
        capture_output=True,
        text=True,
        env=ENV,
        timeout=180,
    )
    assert (done.returncode, done.stderr) == (0, "")
    receipt: dict[str, object] = json.loads(done.stdout)
    return receipt


def test_a_clip_by_ec_diff_through_a_server(video_pair: Path, tmp_path: Path) -> None:
    """Its frames are those of the same plan in one process."""
    receipt = generate(video_pair, tmp_path / "clip", "--compare")
    assert (receipt["frames"], receipt["method"]) == (FRAMES, "ec-diff")
    assert receipt["fps"] == 8
    assert receipt["images"] == [str(tmp_path / "clip")]
    assert receipt["counts"]["extrapolated"] == 2  # type: ignore[index]
    assert receipt["bytes"]["received"] > 0  # type: ignore[index]
    files = sorted((tmp_path / "clip").iterdir())
    assert [file.name for file in files] == [f"frame-{j:04d}.png" for j in range(FRAMES)]

    pipe = EdgeCloudPipeline.from_pretrained(str(video_pair))
    plan = {name: value for name, value in STEPS.items() if name != "steps"}
    result = pipe(
        PROMPT, num_inference_steps=8, seed=7, num_frames=FRAMES, output_type="np", **plan
    )
    [clip] = result.images
    written = np.stack([np.asarray(Image.open(file)) for file in files]) / 255
    assert clip.shape == written.shape
    assert np.abs(clip - written).max() < 0.01

    compared = receipt["compare"]
    assert list(compared["methods"]) == ["cloud", "ec-diff", "hybrid-sd", "edge"]  # type: ignore[index]
    with Image.open(compared["image"]) as sheet:  # type: ignore[index]
        assert sheet.width > 6 * 256
        assert sheet.height > 4 * 256 * clip.shape[1] / clip.shape[2]
    assert sorted(tmp_path.iterdir()) == [tmp_path / "clip", tmp_path / "clip-compare.png"]


def test_an_mp4_and_a_contact_sheet(video_pair: Path, folder: Path) -> None:
    words = ["--method", "edge", "--steps", 2, "--frames", FRAMES, "--json"]
    result = call("generate", PROMPT, "--pair", video_pair, *words, "--fps", 12, "--count", 2)
    assert (result.exit_code, result.stderr) == (0, "")
    receipt = json.loads(result.stdout)
    assert receipt["images"] == ["ecdiff-0.mp4", "ecdiff-1.mp4"]
    for name in receipt["images"]:
        frames, rate = read_mp4(Path(name))
        assert (len(frames), rate) == (FRAMES, 12)
    result = call("generate", PROMPT, "--pair", video_pair, *words, "--out", "sheet.png")
    assert Image.open("sheet.png").width > 6 * 256


@pytest.mark.usefixtures("no_server")
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--frames", "0"], "frames"),
        (["--fps", "0"], "fps"),
        (["--out", "clip.txt"], "cannot write"),
        (["--out", "nowhere/clip.mp4"], "no folder"),
    ],
)
def test_bad_clips(words: list[str], reason: str, video_pair: Path, folder: Path) -> None:
    result = call("generate", PROMPT, "--pair", video_pair, *words)
    assert result.exit_code == 2
    assert_one_line(result.stderr)
    assert reason in result.stderr
    assert list(folder.iterdir()) == []


def test_the_model_says_how_many_frames_it_draws(video_pair: Path, folder: Path) -> None:
    result = call("generate", PROMPT, "--pair", video_pair, "--frames", 10, "--method", "edge")
    assert result.exit_code == 2
    assert_one_line(result.stderr)
    assert "frames is 10: this model draws 1, 9, 17, ... up to 9" in result.stderr
    assert list(folder.iterdir()) == []


@pytest.mark.usefixtures("no_server")
@pytest.mark.parametrize("words", [["--frames", "9"], ["--fps", "8"], ["--out", "clip.mp4"]])
def test_a_pair_of_pictures_has_no_frames(
    words: list[str], pair_folder: Path, folder: Path
) -> None:
    result = call("generate", PROMPT, "--pair", pair_folder, *words)
    assert result.exit_code == 2
    assert_one_line(result.stderr)
    assert list(folder.iterdir()) == []


def test_the_image_api_refuses_clips(video_pair: Path) -> None:
    from ecdiff import pairs

    with running(pairs.resolve(str(video_pair))) as server:
        answer = httpx.post(
            f"{server.http}/v1/images/generations", json={"prompt": PROMPT, "steps": 2}
        )
    assert answer.status_code == 400
    assert "clips" in answer.text


@pytest.mark.parametrize("edge_steps", [10, 25])
@pytest.mark.parametrize("kind", ["pictures", "clips"])
def test_hybrid_sd_as_in_the_paper(
    kind: str, edge_steps: int, pair_folder: Path, video_pair: Path, folder: Path
) -> None:
    pair, out = {"pictures": (pair_folder, "a.png"), "clips": (video_pair, "a.gif")}[kind]
    words = options(pair=pair, method="hybrid-sd", steps=50, handoff_step=50 - edge_steps, out=out)
    result = call("generate", PROMPT, *words, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    counts = json.loads(result.stdout)["counts"]
    assert (counts["cloud_evaluated"], counts["edge_evaluated"]) == (50 - edge_steps, edge_steps)


def test_a_few_step_split_of_latent_consistency_models(pair_folder: Path, folder: Path) -> None:
    words = options(pair=pair_folder, scheduler="lcm", steps=8, method="hybrid-sd", handoff_step=4)
    drawn = []
    for name in ("a.png", "b.png"):
        result = call("generate", PROMPT, *words, "--seed", 3, "--out", name, "--json")
        assert (result.exit_code, result.stderr) == (0, "")
        receipt = json.loads(result.stdout)
        assert receipt["scheduler"] == "lcm"
        assert receipt["counts"]["cloud_evaluated"] == receipt["counts"]["edge_evaluated"] == 4
        drawn.append(np.asarray(Image.open(name)))
    assert np.array_equal(*drawn)  # its noise comes from the seed
