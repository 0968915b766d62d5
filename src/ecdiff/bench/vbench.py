"""The way to VBench, which needs an environment of its own: clips out, scores back in."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ecdiff.clips import save
from ecdiff.errors import InputError

PROMPTS = "prompts.json"
LONGEST = 255  # bytes of a file's name


def export(clips: Iterable[tuple[str, Tensor]], folder: Path, fps: float = 8.0) -> list[Path]:
    """Write clips (prompt, [F, 3, H, W] in [0, 1]) as `{prompt}-{index}.mp4` into `folder`.

    `index` counts the clips of one prompt. `prompts.json` maps each file's name to its prompt, as
    VBench's `--mode=custom_input --prompt_file` reads it, so the folder may move. Raises InputError
    for a prompt that is no file name or frames that make no clip; then the clips it wrote are
    gone again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    seen: Counter[str] = Counter()
    prompts: dict[str, str] = {}
    try:
        for prompt, clip in clips:
            name = f"{prompt}-{seen[prompt]}.mp4"
            if "/" in name or "\0" in name or len(name.encode()) > LONGEST:
                raise InputError(f"VBench names clips by prompt: {prompt[:40]!r} is no file name")
            seen[prompt] += 1
            prompts[name] = prompt
            save([_frames(clip)], [folder / name], fps)
    except BaseException:
        for name in prompts:
            (folder / name).unlink(missing_ok=True)
        raise
    (folder / PROMPTS).write_text(json.dumps(prompts, indent=2, ensure_ascii=False) + "\n")
    return [folder / name for name in prompts]


def read_results(path: Path) -> dict[str, float]:
    """Score by dimension from VBench's `NAME_eval_results.json`. Raises InputError."""
    try:
        content: Any = json.loads(path.read_text())
        scores = {
            str(dimension): float(found[0] if isinstance(found, list) else found)
            for dimension, found in content.items()
        }
    except OSError as error:
        raise InputError(f"cannot read VBench results from {path}: {error.strerror}") from error
    except (ValueError, TypeError, IndexError, AttributeError) as error:
        raise InputError(f"{path} is not VBench's eval_results.json: {error}") from error
    if not scores:
        raise InputError(f"{path} holds no VBench score")
    return scores


def _frames(clip: Tensor) -> list[Image.Image]:
    """Raises InputError for frames that H.264 in 4:2:0 cannot hold."""
    if clip.ndim != 4 or clip.shape[1] != 3 or clip.shape[2] % 2 or clip.shape[3] % 2:
        raise InputError(f"a clip is [F, 3, H, W] with even H and W, not {list(clip.shape)}")
    return list(map(Image.fromarray, (clip * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()))
