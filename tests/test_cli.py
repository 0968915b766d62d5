"""The command as a user meets it: real processes, real sockets, real signals."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import ecdiff
from ecdiff import console, launch, pairs
from ecdiff.cli import app
from tests.conftest import make_pair

PROMPT = "a red house"
TOKEN = "let me in"
COMMAND = [sys.executable, "-m", "ecdiff"]
ENV = os.environ | {
    "PYTHONPATH": str(Path(ecdiff.__file__).parents[1]),
    "OMP_NUM_THREADS": "1",  # tiny models wait for each other's threads
    "COLUMNS": "100",
}


@dataclass
class Server:
    process: subprocess.Popen[str]
    url: str
    port: int


def start_server(pair_folder: Path, *options: str) -> Server:
    """`ecdiff serve` on a free port, when it says it is ready."""
    process = subprocess.Popen(
        [*COMMAND, "serve", "--port", "0", "--pair", str(pair_folder), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENV,
    )
    assert process.stdout is not None
    listening = process.stdout.readline()
    match = re.search(r"listening on http://127\.0\.0\.1:(\d+)$", listening.strip())
    assert match, listening
    assert process.stdout.readline() == "ecdiff: ready\n"
    return Server(process, f"ws://127.0.0.1:{match[1]}", int(match[1]))


def stop_server(server: Server, how: signal.Signals) -> tuple[int, str]:
    """Its exit code and what it said on stderr."""
    server.process.send_signal(how)
    _, errors = server.process.communicate(timeout=30)
    return server.process.returncode, errors


@pytest.fixture(scope="module")
def server(pair_folder: Path) -> Iterator[Server]:
    running = start_server(pair_folder, "--token", TOKEN)
    yield running
    assert stop_server(running, signal.SIGTERM) == (0, "")


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def assert_one_line(errors: str) -> None:
    assert errors.startswith("ecdiff: error: ")
    assert len(errors.strip().splitlines()) == 1


def assert_gone(process: psutil.Process, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, f"{process} is still there"
        time.sleep(0.05)


def read_until(terminal: int, pattern: bytes) -> bytes:
    """What a process shows on its terminal; OSError when it ends without the pattern."""
    shown = b""
    while not re.search(pattern, shown):
        shown += os.read(terminal, 4096)
    return shown


@pytest.mark.parametrize("words", [["--help"], ["generate", "--help"], ["pairs", "--json"]])
def test_help_and_pairs_need_no_torch(words: list[str]) -> None:
    code = (
        "import sys, ecdiff.cli;"
        f"sys.argv = ['ecdiff', *{words}];"
        "import atexit; atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr));"
        "ecdiff.cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=ENV, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "False\n")
    if "--json" in words:
        entries = json.loads(done.stdout)["pairs"]
        assert [entry["name"] for entry in entries] == pairs.names()
        assert len(entries[0]["fingerprint"]) == 64


def test_version() -> None:
    assert call("--version").stdout == f"ecdiff {ecdiff.__version__}\n"


@pytest.mark.usefixtures("no_server")
@pytest.mark.parametrize(
    "words",
    [
        [""],
        [" "],
        [],
        [PROMPT, "--size", "100x100"],
        [PROMPT, "--size", "big"],
        [PROMPT, "--steps", "0"],
        [PROMPT, "--steps", "many"],
        [PROMPT, "--steps", "10", "--handoff-step", "11"],
        [PROMPT, "--warmup", "1"],
        [PROMPT, "--smoothing", "2"],
        [PROMPT, "--method", "magic"],
        [PROMPT, "--method", "cloud", "--skip", "2"],
        [PROMPT, "--scheduler", "magic"],
        [PROMPT, "--handoff", "magic"],
        [PROMPT, "--guidance", "nan"],
        [PROMPT, "--seed", "-1"],
        [PROMPT, "--count", "0"],
        [PROMPT, "--dtype", "int8"],
        [PROMPT, "--pair", "nowhere"],
        [PROMPT, "--out", "picture.txt"],
        [PROMPT, "--out", "", "--count", "2"],
        [PROMPT, "--out", "nowhere/picture.png"],
        [PROMPT, "--out", "/proc/picture.png"],
        [PROMPT, "--compare", "--size", "8x8"],
        [PROMPT, "--cloud", "ws://127.0.0.1:99999"],
        [PROMPT, "--cloud", "ws://127.0.0.1:8765", "--token", ""],
        [PROMPT, "--count", "100000"],
        [PROMPT, "--magic"],
    ],
    ids=lambda words: " ".join(words[1:]) or repr(words),
)
def test_bad_arguments(words: list[str], pair_folder: Path, folder: Path) -> None:
    result = call("generate", "--pair", pair_folder, *words)
    assert result.exit_code == 2
    assert_one_line(result.stderr)
    assert result.stdout == ""
    assert list(folder.iterdir()) == []


def test_a_server_of_our_own(pair_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "house.png"
    words = ["--pair", pair_folder, "--steps", 10, "--seed", 7, "--count", 2, "--out", out]
    done = subprocess.run(
        [*COMMAND, "generate", PROMPT, *map(str, words), "--compare", "--json"],
        capture_output=True,
        text=True,
        env=ENV,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert {
        "image", "images", "pair", "method", "scheduler", "guidance", "size", "seed", "prompt",
        "plan", "counts", "compare", "seconds", "bytes", "outcome",
    } <= report.keys()  # fmt: skip
    assert report["images"] == [str(tmp_path / f"house-{j}.png") for j in range(2)]
    assert report["image"] == report["images"][0]
    assert {"warmup", "skip", "smoothing", "handoff_step", "steps", "phases"} <= report[
        "plan"
    ].keys()
    assert report["counts"] == {
        "cloud_evaluated": 7,
        "extrapolated": 0,
        "edge_extrapolated": 0,
        "edge_evaluated": 3,
    }
    assert set(report["seconds"]) == {"encode", "cloud", "transfer", "edge", "decode", "total"}
    assert report["bytes"]["received"] > 0
    assert report["outcome"] == "complete"
    methods = report["compare"]["methods"]
    assert list(methods) == ["cloud", "ec-diff", "hybrid-sd", "edge"]
    assert (methods["cloud"]["psnr"], methods["cloud"]["speedup"]) == (None, 1.0)
    assert methods["edge"]["psnr"] > 0
    assert methods["edge"]["bytes"] == {"sent": 0, "received": 0}
    assert methods["hybrid-sd"]["counts"]["edge_evaluated"] == 2
    files = [Path(name) for name in [*report["images"], report["compare"]["image"]]]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    sizes = [Image.open(file).size for file in files]
    assert sizes[:2] == [(32, 32)] * 2
    assert sizes[2][0] > 4 * 256


def test_a_server_elsewhere(
    server: Server, pair_folder: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")  # not for this machine's own servers
    words = ["--pair", pair_folder, "--cloud", server.url, "--steps", 6, "--token", TOKEN]
    result = call("generate", PROMPT, *words, "--skip", 1, "--warmup", 2, "--handoff-step", 4)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("ecdiff.png\n")
    assert "CCxCEE" in result.stdout
    assert [file.name for file in folder.iterdir()] == ["ecdiff.png"]

    other = make_pair(folder / "other", beta_end=0.02)
    for words, reason in [
        (["--pair", other, "--cloud", server.url, "--token", TOKEN], "same --pair"),
        (["--pair", pair_folder, "--cloud", server.url, "--token", "wrong"], "bearer token"),
        (["--pair", pair_folder, "--cloud", "ws://127.0.0.1:1"], "ecdiff serve"),
    ]:
        result = call("generate", PROMPT, *words, "--out", "no.png")
        assert result.exit_code == 1
        assert_one_line(result.stderr)
        assert reason in result.stderr
    words = ["--pair", pair_folder, "--cloud", server.url, "--token", TOKEN]
    result = call("generate", PROMPT, *words, "--count", 99, "--out", "no.png")
    assert result.exit_code == 2
    assert_one_line(result.stderr)
    assert not list(folder.glob("*no*"))


@pytest.mark.usefixtures("no_server")
def test_the_edge_alone(pair_folder: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, load = [], pairs.load
    monkeypatch.setattr(pairs, "load", lambda *args: loaded.append(args[1]) or load(*args))
    words = ["--pair", pair_folder, "--method", "edge", "--steps", 3, "--json"]
    result = call("generate", PROMPT, *words, "--out", "edge.webp")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout)["counts"]["edge_evaluated"] == 3
    assert loaded == ["edge"]
    assert [file.name for file in folder.iterdir()] == ["edge.webp"]


def test_serve_refuses_to_start(pair_folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for words in [["--port", port], ["--port", 0, "--host", "0.0.0.0"]]:
            result = call("serve", "--pair", pair_folder, *words)
            assert (result.exit_code, result.stdout) == (2 if "--host" in words else 1, "")
            assert_one_line(result.stderr)
    assert call("serve", "--pair", "nowhere").exit_code == 2


def test_a_model_that_does_not_load(pair_folder: Path, tmp_path: Path) -> None:
    broken = make_pair(tmp_path / "broken")
    weights = broken / "cloud" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    result = call("serve", "--pair", broken, "--port", 0)
    assert result.exit_code == 1
    assert_one_line(result.stderr)
    assert "unet" in result.stderr
    theirs = call("generate", PROMPT, "--pair", broken, "--out", tmp_path / "no.png")
    assert (theirs.exit_code, theirs.stdout) == (1, "")
    assert_one_line(theirs.stderr)
    assert "the local server: cannot load unet" in theirs.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["broken"]


def test_ctrl_c_on_generate(pair_folder: Path, tmp_path: Path) -> None:
    """In the middle, on a terminal that shows the live line."""
    terminal, end = pty.openpty()
    words = ["--pair", str(pair_folder), "--steps", "900", "--out", str(tmp_path / "no.png")]
    with subprocess.Popen(
        [*COMMAND, "generate", PROMPT, *words], stdout=subprocess.PIPE, stderr=end, env=ENV
    ) as process:
        os.close(end)
        shown = read_until(terminal, rb"cloud +(evaluated|extrapolated) +step")
        [child] = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stdout is not None
        assert process.stdout.read() == b""
    assert b"Traceback" not in shown + os.read(terminal, 65536)
    os.close(terminal)
    assert_gone(child, 1.0)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_generate_leaves_no_server(pair_folder: Path, tmp_path: Path) -> None:
    words = ["--pair", str(pair_folder), "--steps", "900", "--out", str(tmp_path / "no.png")]
    with subprocess.Popen([*COMMAND, "generate", PROMPT, *words], env=ENV) as process:
        while not (children := psutil.Process(process.pid).children()):
            time.sleep(0.05)
        time.sleep(0.5)
        process.kill()
    assert_gone(children[0])


def test_a_server_killed_in_the_middle(
    pair_folder: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_server(pair_folder)

    def kill(live: console.Silence, method: str, step: int, *rest: object) -> None:
        if step == 3:
            server.process.kill()

    monkeypatch.setattr(console.Silence, "step", kill)
    began = time.monotonic()
    words = ["--pair", pair_folder, "--cloud", server.url, "--steps", 900]
    result = call("generate", PROMPT, *words)
    assert time.monotonic() - began < 20
    assert (result.exit_code, result.stdout) == (1, "")
    assert_one_line(result.stderr)
    assert "the connection" in result.stderr
    assert list(folder.iterdir()) == []
    server.process.communicate()


def test_ctrl_c_on_serve(pair_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(line: str) -> None:
        if line == "ecdiff: ready":
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(launch, "_say", interrupt)
    result = call("serve", "--pair", pair_folder, "--port", 0)
    assert (result.exit_code, result.output) == (0, "")
