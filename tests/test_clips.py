"""Clips as files: what is read back is what was written, and nothing half-written stays."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from ecdiff import clips, pictures
from ecdiff.errors import InputError

FRAMES = 9


def a_clip(frames: int = FRAMES, colour: int = 0) -> list[Image.Image]:
    """A bright square that moves to the right over a slope of grey, 64x48."""
    out = []
    for j in range(frames):
        pixels = np.repeat(np.linspace(20, 120, 64)[None, :, None], 48, 0).repeat(3, 2)
        pixels[16:32, 4 * j : 4 * j + 16, colour] = 230
        out.append(Image.fromarray(pixels.astype(np.uint8)))
    return out


def pixels(frame: Image.Image) -> np.ndarray:
    return np.asarray(frame.convert("RGB"), dtype=float)


def read_mp4(path: Path) -> tuple[list[Image.Image], float]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [frame.to_image() for frame in container.decode(stream)], float(stream.average_rate)


def distances(a: list[Image.Image], b: list[Image.Image]) -> np.ndarray:
    """Mean absolute difference, of 255, of each frame of `a` to each of `b`."""
    return np.array([[np.abs(pixels(x) - pixels(y)).mean() for y in b] for x in a])


@pytest.mark.parametrize("fps", [8.0, 23.976])
def test_mp4(tmp_path: Path, fps: float) -> None:
    clip, out = a_clip(), tmp_path / "clip.mp4"
    clips.save([clip], clips.places(out, 1), fps)
    found, rate = read_mp4(out)
    assert rate == pytest.approx(fps, abs=0.001)
    apart = distances(found, clip)
    print(f"\nmp4 at {fps:g} fps: mean distance {apart.diagonal().mean():.2f} of 255")
    assert apart.diagonal().max() < 3
    assert apart.argmin(1).tolist() == list(range(FRAMES))  # in order
    assert list(tmp_path.iterdir()) == [out]


def test_gif(tmp_path: Path) -> None:
    clip, out = a_clip(), tmp_path / "clip.gif"
    clips.save([clip], clips.places(out, 1), 8)
    with Image.open(out) as image:
        assert image.info["loop"] == 0
        assert image.info["duration"] in (120, 130)
        found = [frame.convert("RGB") for frame in ImageSequence.Iterator(image)]
    apart = distances(found, clip)
    assert apart.diagonal().max() < 4
    assert apart.argmin(1).tolist() == list(range(FRAMES))


@pytest.mark.parametrize("made", [False, True], ids=["new folder", "folder that exists"])
def test_a_folder_of_frames(tmp_path: Path, made: bool) -> None:
    out = tmp_path / "clip"
    if made:
        out.mkdir()
    for frames in (FRAMES, 5):  # a shorter clip leaves nothing of the longer one
        clip = a_clip(frames)
        clips.save([clip], clips.places(out, 1), 8)
        found = [Image.open(path) for path in sorted(out.iterdir())]
        assert [path.name for path in sorted(out.iterdir())] == [
            f"frame-{j:04d}.png" for j in range(frames)
        ]
        assert distances(found, clip).diagonal().max() == 0
    assert list(tmp_path.iterdir()) == [out]


def test_several_clips(tmp_path: Path) -> None:
    both = [a_clip(colour=0), a_clip(colour=2)]
    paths = clips.places(tmp_path / "clip.mp4", 2)
    clips.save(both, paths, 8)
    assert [path.name for path in paths] == ["clip-0.mp4", "clip-1.mp4"]
    for path, clip in zip(paths, both, strict=True):
        assert distances(read_mp4(path)[0], clip).diagonal().max() < 4
    folder = tmp_path / "frames"
    folder.mkdir()
    paths = clips.places(folder, 2)
    clips.save(both, paths, 8)
    assert [path.relative_to(folder) for path in paths] == [Path("clip-0"), Path("clip-1")]
    assert all(len(list(path.iterdir())) == FRAMES for path in paths)


def test_a_contact_sheet(tmp_path: Path) -> None:
    clip, out = a_clip(), tmp_path / "clip.png"
    clips.save([clip], clips.places(out, 1), 8)
    with Image.open(out) as sheet:
        assert sheet.size == (6 * 256 + 5 * clips.GAP, 192)
        step = 256 + clips.GAP
        first, last = sheet.crop((0, 0, 256, 192)), sheet.crop((5 * step, 0, 5 * step + 256, 192))
    small = [cell.resize((64, 48)) for cell in (first, last)]
    assert distances(small, clip).argmin(1).tolist() == [0, FRAMES - 1]
    assert clips.contact_sheet(clip[:1]).size == (256, 192)


@pytest.mark.parametrize(
    "name", ["clip.txt", "nowhere/clip.mp4", "nowhere/clip", "/proc/clip.mp4", "/proc/clip", "full"]
)
def test_what_cannot_be_written_is_refused_before_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    with pytest.raises(InputError, match="cannot write"):
        clips.places(Path(name), 1)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["full", "letter.txt"]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "clip", "frames"])
def test_nothing_half_written_stays(tmp_path: Path, name: str) -> None:
    """The third frame breaks; what was there before is untouched."""
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "frame-0000.png").write_bytes(b"earlier")
    if name == "clip.mp4":
        (tmp_path / name).write_bytes(b"earlier")
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}

    class Broken(Image.Image):
        def __getattribute__(self, what: str) -> object:
            raise OSError("this frame cannot be read")

    clip = [*a_clip(2), Broken()]
    with pytest.raises(OSError, match="cannot be read"):
        clips.save([clip], clips.places(tmp_path / name, 1), 8)
    after = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    assert after == before


def test_output_types() -> None:
    decoded = torch.rand(2, 3, 3, 8, 16)  # [B, F, 3, H, W]
    assert pictures.as_output(decoded, "pt") is decoded
    assert pictures.as_output(decoded, "np").shape == (2, 3, 8, 16, 3)
    drawn = pictures.as_output(decoded, "pil")
    assert [[frame.size for frame in clip] for clip in drawn] == [[(16, 8)] * 3] * 2
    assert pictures.as_output(decoded[0], "np").shape == (3, 8, 16, 3)
    assert [picture.size for picture in pictures.as_output(decoded[0], "pil")] == [(16, 8)] * 3
