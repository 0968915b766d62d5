"""Each finding says what is wrong and what to do; the exit code says whether anything is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ecdiff import doctor
from ecdiff.cli import app

NOBODY = "ws://127.0.0.1:1"


def test_all_is_well(pair_folder: Path) -> None:
    result = CliRunner().invoke(app, ["doctor", "--pair", str(pair_folder), "--json"])
    report = json.loads(result.stdout)
    assert (result.exit_code, report["ok"], result.stderr) == (0, True, "")
    checks = {check["name"]: check for check in report["checks"]}
    assert {"torch", "devices", "server"} <= checks.keys()
    assert checks["server"]["ok"] is None
    assert sum("loads on" in check["found"] for check in checks.values()) == 2


def test_what_fails_comes_with_advice(pair_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", ("torch", "no-such-package"))
    monkeypatch.setattr(doctor, "_load", lambda name, site: "")
    result = CliRunner().invoke(app, ["doctor", "--pair", str(pair_folder), "--cloud", NOBODY])
    assert (result.exit_code, result.stderr) == (1, "")
    for said in ("no-such-package", "pip install no-such-package", "cannot reach", "fails"):
        assert said in result.stdout


def test_a_broken_import_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> str:
        raise ImportError("libcudart.so is missing")

    monkeypatch.setattr(doctor, "PACKAGES", ())
    monkeypatch.setattr(doctor, "_devices", broken)
    found = {finding.name: finding for finding in doctor.examine("nowhere", None, None)}
    assert found["devices"].found == "ImportError: libcudart.so is missing"
    assert [found[f"pair nowhere, {site} side"].ok for site in ("cloud", "edge")] == [False, False]
    assert all(finding.advice for finding in found.values() if finding.ok is False)
