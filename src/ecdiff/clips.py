"""Clips as files: MP4, GIF, a folder of PNG, or one picture that shows some of the frames."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from ecdiff import pictures
from ecdiff.errors import InputError

Clip = Sequence[Image.Image]  # its frames, in order, all of one size

VIDEOS = (".mp4", ".gif")
FRAME = "frame-{:04d}.png"
FRAME_NAME = re.compile(r"frame-\d{4,}\.png")
CRF = 16  # of H.264: 0 loses nothing, 23 is its default
GAP = 4  # pixels between a contact sheet's frames


def places(out: Path, count: int) -> list[Path]:
    """Where `count` clips go: `out` itself, or `NAME-0.mp4`, ..., or in a folder `clip-0/`, ...

    A name without a suffix, or a folder that exists, is a folder of PNG; the name of a picture
    is a contact sheet. Raises InputError when they could not be written. Leaves nothing behind.
    """
    suffix = out.suffix.lower()
    is_folder = out.is_dir() or not suffix
    if not is_folder and suffix not in (*VIDEOS, *pictures.FORMATS):
        raise InputError(
            f"cannot write {out}: end its name in {', '.join(VIDEOS)} for a clip, in "
            f"{', '.join(pictures.FORMATS)} for a contact sheet, or in nothing for a folder of PNG"
        )
    if out.is_dir() and count > 1:
        paths = [out / f"clip-{j}" for j in range(count)]
    else:
        paths = pictures.numbered(out, count)
    for path in paths:
        (_check_folder if is_folder else pictures.check_writable)(path)
    return paths


def save(clips: Sequence[Clip], paths: Sequence[Path], fps: float) -> None:
    """Write each clip whole or not at all, replacing what was there."""
    for frames, path in zip(clips, paths, strict=True):
        suffix = path.suffix.lower()
        if path.is_dir() or not suffix:
            _save_folder(frames, path)
        elif suffix in VIDEOS:
            _save_video(frames, path, fps)
        else:
            pictures.save([contact_sheet(frames)], [path])


def contact_sheet(frames: Clip, shown: int = 6, width: int = 256) -> Image.Image:
    """`shown` frames from the first to the last, evenly apart, in one row; each `width` wide."""
    shown = min(shown, len(frames))
    chosen = [frames[round(j * (len(frames) - 1) / max(1, shown - 1))] for j in range(shown)]
    height = round(chosen[0].height * width / chosen[0].width)
    page = Image.new("RGB", (shown * (width + GAP) - GAP, height), "white")
    for j, frame in enumerate(chosen):
        page.paste(frame.resize((width, height), Image.Resampling.LANCZOS), (j * (width + GAP), 0))
    return page


def _save_video(frames: Clip, path: Path, fps: float) -> None:
    unfinished = pictures.beside(path)
    try:
        write = _write_mp4 if path.suffix.lower() == ".mp4" else _write_gif
        write(frames, unfinished, fps)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _write_mp4(frames: Clip, path: Path, fps: float) -> None:
    """H.264 in 4:2:0, which every player knows."""
    import av

    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", Fraction(fps).limit_denominator(1001))
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(CRF)}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(frame), "rgb24")))
        container.mux(stream.encode())


def _write_gif(frames: Clip, path: Path, fps: float) -> None:
    """GIF counts hundredths of a second: 8 fps becomes 12 or 13 of them a frame."""
    first, *rest = frames
    duration = 1000 / fps
    first.save(path, "gif", save_all=True, append_images=rest, duration=duration, loop=0)


def _save_folder(frames: Clip, path: Path) -> None:
    """No frame of an earlier clip stays."""
    is_there = path.is_dir()
    unfinished = path / pictures.beside(path.resolve()).name if is_there else pictures.beside(path)
    try:
        unfinished.mkdir()
        for j, frame in enumerate(frames):
            frame.save(unfinished / FRAME.format(j), "png")
        if is_there:
            for earlier in path.glob("frame-*.png"):
                earlier.unlink()
            for finished in unfinished.iterdir():
                finished.rename(path / finished.name)
        else:
            unfinished.rename(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _check_folder(path: Path) -> None:
    if path.is_file():
        raise InputError(f"cannot write frames to {path}: it is a file, name a folder")
    if not path.is_dir():
        pictures.check_writable(path)
        return
    pictures.check_writable(path / FRAME.format(0))
    strangers = [p.name for p in path.iterdir() if not FRAME_NAME.fullmatch(p.name)]
    if strangers:
        raise InputError(
            f"cannot write frames to {path}: it holds {strangers[0]}, name an empty or new folder"
        )
