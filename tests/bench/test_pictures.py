from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from ecdiff.bench.__main__ import app


def a_picture(path: Path, width: int = 40, height: int = 32, shade: int = 100) -> Path:
    picture = Image.new("RGB", (width, height), (shade, shade, shade))
    picture.paste((250, 10, 10), (8, 8, 20, 24))
    picture.save(path)
    return path


def invoke(*words: object) -> Any:
    return CliRunner().invoke(app, ["pictures", *(str(word) for word in words)])


def test_two_pictures_in_figures(tmp_path: Path) -> None:
    a, b = a_picture(tmp_path / "a.png"), a_picture(tmp_path / "b.png", shade=110)
    out = invoke(a, a)
    assert out.exit_code == 0, out.output
    assert json.loads(out.stdout.splitlines()[-1]) == {"psnr": None, "ssim": 1.0, "detail": 1.0}
    out = invoke(a, b)
    figures = json.loads(out.stdout.splitlines()[-1])
    assert 28 < figures["psnr"] < 30  # ten of 255 off, nearly everywhere
    assert figures["ssim"] < 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a.png", "wide.png"], "compare two tensors [B, C, H, W] of one shape"),
        (["a.png", "none.png"], "cannot read none.png"),
        (["a.png", "text.png"], "it is not a picture"),
        (["a.png", "a.png", "--lpips", "alex"], "LPIPS (alex) has no weights here: save https"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    a_picture(Path("a.png"))
    a_picture(Path("wide.png"), width=48)
    Path("text.png").write_text("hello")
    out = invoke(*words)
    assert out.exit_code == 2
    assert said in out.stderr
    assert len(out.stderr.splitlines()) == 1
