"""Prompts from a file: text, CSV, TSV or JSON Lines, each also gzipped."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TextIO

from ecdiff.errors import InputError

SEPARATORS = {".csv": ",", ".tsv": "\t"}
COLUMNS = ("prompt", "caption", "text")  # where no column is named


def read_prompts(path: Path | None, limit: int, column: str | None = None) -> list[str]:
    """The first `limit` prompts of `path`; None gives held-out scenes of the reference pair.

    A `.csv` or `.tsv` file has a header and a `.jsonl` file an object a line; `column` is where
    the prompt is, by default the first there is of prompt, caption and text. Any other file has
    one prompt a line. `.gz` may follow. Empty ones are left out.

    Raises InputError for a file that cannot be read, has no such column or no prompt.
    """
    if path is None:
        from ecdiff.reference.scenes import caption, held_out_scenes

        ones, twos = held_out_scenes(limit - limit // 2, 1), held_out_scenes(limit // 2, 2)
        return [caption(scene) for scene in (*ones, *twos)]
    try:
        with _open(path) as file:
            stripped = (text.strip() for text in _texts(path, file, column))
            prompts = list(islice((text for text in stripped if text), limit))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read prompts from {path}: {reason}") from error
    if not prompts:
        raise InputError(f"{path} holds no prompt: give it at least one")
    return prompts


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _texts(path: Path, file: TextIO, column: str | None) -> Iterator[str]:
    kind = Path(path.name.removesuffix(".gz")).suffix.lower()
    if kind in SEPARATORS:
        table = csv.DictReader(file, delimiter=SEPARATORS[kind])
        name = _column(path, column, table.fieldnames or ())
        yield from (row[name] or "" for row in table)
    elif kind == ".jsonl":
        yield from _json_lines(path, file, column)
    elif column is not None:
        raise InputError(f"{path} has no columns: leave --column out, or use CSV, TSV or JSONL")
    else:
        yield from file


def _json_lines(path: Path, file: TextIO, column: str | None) -> Iterator[str]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            text = row[_column(path, column, row.keys())]
        except (ValueError, AttributeError) as error:
            raise InputError(f"line {number} of {path} is not a JSON object") from error
        if not isinstance(text, str):
            raise InputError(f"line {number} of {path} has {text!r:.40} for a prompt, not text")
        yield text


def _column(path: Path, wanted: str | None, there: Iterable[str]) -> str:
    """Raises InputError naming the columns that there are."""
    names = list(there)
    for name in COLUMNS if wanted is None else (wanted,):
        if name in names:
            return name
    missing = f"no column {wanted!r}" if wanted else f"none of the columns {', '.join(COLUMNS)}"
    raise InputError(f"{path} has {missing}: choose --column from {', '.join(names) or 'none'}")
