"""What has been measured, kept in one SQLite file so that an interrupted search goes on."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ecdiff.errors import InputError

T = TypeVar("T")


class Cache:
    """JSON values by `facts` (all that changes any of them) and what else a value depends on."""

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        """Raises InputError when `path` cannot be written or is not a cache."""
        self._facts = dict(facts)
        try:
            self._file = sqlite3.connect(path, isolation_level=None)  # each value is kept at once
            self._file.execute("CREATE TABLE IF NOT EXISTS measured (key TEXT PRIMARY KEY, json)")
        except sqlite3.Error as error:
            raise InputError(f"cannot use {path}: {error}; choose another --out") from error

    def get(self, about: Mapping[str, Any], measure: Callable[[], T]) -> T:
        """The value `about` these things: the kept one, or `measure()`, then kept."""
        everything = json.dumps(self._facts | {"about": about}, sort_keys=True)
        key = hashlib.sha256(everything.encode()).hexdigest()
        row = self._file.execute("SELECT json FROM measured WHERE key = ?", (key,)).fetchone()
        if row is None:
            text = json.dumps(measure())
            self._file.execute("INSERT OR REPLACE INTO measured VALUES (?, ?)", (key, text))
        else:
            text = row[0]
        value: T = json.loads(text)
        return value

    def close(self) -> None:
        self._file.close()
