from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ecdiff.bench.vbench import export, read_results
from ecdiff.errors import InputError


def a_clip(seed: int, frames: int = 5) -> torch.Tensor:
    coarse = torch.rand((frames, 3, 2, 3), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=(32, 48), mode="bilinear")


def test_clips_are_named_and_listed_as_vbench_wants(tmp_path: Path) -> None:
    import av

    clips = [("a red fish", a_clip(0)), ("a red fish", a_clip(1)), ("in the snow", a_clip(2))]
    paths = export(clips, tmp_path / "videos", fps=8)
    names = ["a red fish-0.mp4", "a red fish-1.mp4", "in the snow-0.mp4"]
    assert [path.name for path in paths] == names
    listed = json.loads((tmp_path / "videos" / "prompts.json").read_text())
    assert list(listed) == names
    assert list(listed.values()) == ["a red fish", "a red fish", "in the snow"]
    with av.open(str(paths[1])) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 5
    played = torch.from_numpy(frames[2]).permute(2, 0, 1) / 255
    assert (played - clips[1][1][2]).abs().mean() < 0.06


@pytest.mark.parametrize("prompt", ["a/b", "x" * 300])
def test_a_prompt_that_is_no_file_name_is_refused(tmp_path: Path, prompt: str) -> None:
    with pytest.raises(InputError, match="no file name"):
        export([(prompt, a_clip(0))], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_no_clips(tmp_path: Path) -> None:
    clips = [("a red fish", a_clip(0)), ("odd", a_clip(1)[..., :31, :])]
    with pytest.raises(InputError, match="even H and W"):
        export(clips, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_results_are_read_back(tmp_path: Path) -> None:
    file = tmp_path / "run_eval_results.json"
    per_clip = [{"video_path": "a.mp4", "video_results": 0.9}]
    file.write_text(json.dumps({"subject_consistency": [0.94, per_clip], "color": 0.8}))
    assert read_results(file) == {"subject_consistency": 0.94, "color": 0.8}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"color": "high"}', '{"color": []}'])
def test_other_files_are_no_results(tmp_path: Path, text: str) -> None:
    file = tmp_path / "results.json"
    file.write_text(text)
    with pytest.raises(InputError):
        read_results(file)
    with pytest.raises(InputError, match="cannot read"):
        read_results(tmp_path / "none.json")
