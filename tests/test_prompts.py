from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from ecdiff.errors import InputError
from ecdiff.prompts import read_prompts

FILES = {
    "a.txt": "a fish\n\n  a house, red \r\na cup\n",
    "a.csv": 'id,prompt\n1,a fish\n2,"a house, red"\n3,\n4,a cup\n',
    "a.tsv": "id\tcaption\n1\ta fish\n2\ta house, red\n4\ta cup\n",
    "a.jsonl": '{"text": "a fish"}\n\n{"text": "a house, red"}\n{"text": "a cup"}\n',
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_prompts(tmp_path: Path, name: str, packed: bool) -> None:
    file = tmp_path / (f"{name}.gz" if packed else name)
    data = FILES[name].encode()
    file.write_bytes(gzip.compress(data) if packed else data)
    assert read_prompts(file, 9) == ["a fish", "a house, red", "a cup"]
    assert read_prompts(file, 2) == ["a fish", "a house, red"]


def test_the_column_may_be_named(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("\ufefftitle,prompt\na cup,a fish\n", encoding="utf-8")
    assert read_prompts(file, 9, "title") == ["a cup"]


@pytest.mark.parametrize(
    ("name", "data", "column", "said"),
    [
        ("a.txt", b"\n \n", None, "holds no prompt"),
        ("a.csv", b"", None, "none of the columns prompt, caption, text"),
        ("a.csv", b"prompt\n", None, "holds no prompt"),
        ("a.csv", b"id,words\n1,a fish\n", None, "choose --column from id, words"),
        ("a.tsv", b"id\tprompt\n1\ta fish\n", "words", "no column 'words'"),
        ("a.jsonl", b'{"words": "a fish"}\n', "text", "choose --column from words"),
        ("a.jsonl", b'{"text": 3}\n', None, "line 1"),
        ("a.jsonl", b"[1]\n", None, "not a JSON object"),
        ("a.jsonl", b"a fish\n", None, "not a JSON object"),
        ("a.txt", b"a fish\n", "prompt", "has no columns"),
        ("a.txt", b"\xff\xfe\x00", None, "cannot read prompts"),
        ("a.txt.gz", b"a fish", None, "cannot read prompts"),
    ],
)
def test_a_file_without_prompts_is_refused(
    tmp_path: Path, name: str, data: bytes, column: str | None, said: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=said):
        read_prompts(tmp_path / name, 9, column)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read prompts"):
        read_prompts(tmp_path / "none.txt", 9)
