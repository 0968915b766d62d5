"""Every named pair by the path a user takes, from a hub cache laid out as the real one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from conftest import a_request, running
from hub import make_hub, snapshot
from test_cli import COMMAND, ENV, PROMPT, assert_one_line, call

from ecdiff import EdgeCloudPipeline, pairs
from ecdiff.errors import PairError
from ecdiff.families.loading import Loader
from ecdiff.sources import Source, read_json

CPU = (torch.device("cpu"), torch.float32)
HUB_PAIRS = [name for name in pairs.names() if not name.startswith("reference")]
OWN_PARTS = {  # what each side loads for its steps: no more
    "sd": {"cloud": {"text_encoder", "unet"}, "edge": {"text_encoder", "unet", "vae"}},
    "sdxl": {
        "cloud": {"text_encoder", "text_encoder_2", "unet"},
        "edge": {"text_encoder", "text_encoder_2", "unet", "vae"},
    },
    "cogvideox": {"cloud": {"text_encoder", "transformer"}, "edge": {"transformer", "vae"}},
}


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_hub(tmp_path_factory.mktemp("hub"), tmp_path_factory.mktemp("workshop"))


@pytest.fixture
def offline(hub: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """HF_HUB_OFFLINE is set for all tests; HF_HUB_CACHE is read when the library is imported."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub))
    return hub


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each part with weights was loaded."""
    count: Counter[str] = Counter()
    load = Loader._load

    def counted(self: Loader, kind: Any, source: Source, name: str, dtype: torch.dtype) -> Any:
        count[name] += 1
        return load(self, kind, source, name, dtype)

    monkeypatch.setattr(Loader, "_load", counted)
    return count


def small(name: str) -> dict[str, Any]:
    """What a call asks of the tiny weights in place of the pair's own size."""
    frames = {"num_frames": 9} if pairs.resolve(name).frames else {}
    return {"height": 32, "width": 32, "num_inference_steps": 6, "seed": 3, **frames}


@pytest.mark.parametrize("name", HUB_PAIRS)
def test_it_loads_and_generates(name: str, offline: Path, loads: Counter[str]) -> None:
    """In process, both sides, each part once and no part that a side does not need."""
    pipe = EdgeCloudPipeline.from_pretrained(name, device="cpu")
    own = OWN_PARTS[pipe.pair.family]
    assert loads == Counter(own["edge"])
    result = pipe(PROMPT, output_type="pt", **small(name))
    assert loads == Counter(own["edge"]) + Counter(own["cloud"])
    assert "C" in str(result.receipt.plan)
    assert "E" in str(result.receipt.plan)
    shape = (1, 9, 3, 32, 32) if pipe.pair.frames else (1, 3, 32, 32)
    assert result.images.shape == shape
    assert 0 <= result.images.min() < result.images.max() <= 1


@pytest.mark.parametrize("name", HUB_PAIRS)
def test_only_models_of_two_scales_are_converted(name: str, offline: Path) -> None:
    """Configurations of before a key existed mean the key's default."""
    pair = pairs.resolve(name)
    assert (pairs.conversion(pair, "cloud") is not None) == (pair.family == "cogvideox")


@pytest.mark.parametrize("name", HUB_PAIRS)
def test_memory_options_reach_the_vae(name: str, offline: Path) -> None:
    from ecdiff.sources import Memory

    pair = pairs.resolve(name)
    plain = pairs.load(pair, "edge", *CPU)
    careful = pairs.load(pair, "edge", *CPU, Memory(vae_tiling=True, vae_slicing=True))
    vaes = [family.load_vae() for family in (plain, careful)]  # type: ignore[attr-defined]
    assert [(vae.use_tiling, vae.use_slicing) for vae in vaes] == [(False, False), (True, True)]
    if pair.frames is None:
        latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        assert torch.allclose(plain.decode(latents), careful.decode(latents), atol=1e-5)


def test_an_sdxl_vae_that_overflows_in_float16_is_loaded_in_float32(offline: Path) -> None:
    pair = pairs.resolve("sdxl-vega")
    edge: Any = pairs.load(pair, "edge", torch.device("cpu"), torch.float16)
    assert (edge.unet.dtype, edge.load_vae().dtype) == (torch.float16, torch.float32)


def test_over_a_server_the_cloud_loads_no_vae(offline: Path, loads: Counter[str]) -> None:
    """And the edge gets the encoded prompt: it has no T5."""
    pair = pairs.resolve("cogvideox-5b-2b")
    small_pair = pairs.replace(pair, height=32, width=32, frames=9)
    with running(small_pair) as server:
        assert loads == Counter(OWN_PARTS["cogvideox"]["cloud"])
        pipe = EdgeCloudPipeline.from_pretrained(pair, server.ws, device="cpu")
        there = pipe(PROMPT, output_type="latent", **small(pair.name))
    assert loads["text_encoder"] == 1
    assert loads["vae"] == 1
    here = EdgeCloudPipeline.from_pretrained(pair, device="cpu")
    same = here(PROMPT, output_type="latent", **small(pair.name))
    assert torch.equal(there.images, same.images)


def test_a_pair_of_a_users_own_from_the_hub(hub: Path, folder: Path) -> None:
    """The whole path: the hub's variables, a process of its own, the server that it starts."""
    (folder / "my.toml").write_text(
        """
        family = "sd"
        size = [32, 32]
        guidance = 3.0
        [cloud]
        model = "CompVis/stable-diffusion-v1-4"
        variant = "fp16"
        [edge]
        model = "nota-ai/bk-sdm-tiny"
        network = "cqyan/hybrid-sd-224m"
        [plan]
        warmup = 4
        skip = 2
        smoothing = 0.3
        handoff_step = 8
        steps = 10
        """
    )
    words = ["--pair", "my.toml", "--steps", "10", "--seed", "3", "--vae-tiling", "--vae-slicing"]
    done = subprocess.run(
        [*COMMAND, "generate", PROMPT, *words, "--handoff", "paper", "--json"],
        capture_output=True,
        text=True,
        env=ENV | {"HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1"},
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    receipt = json.loads(done.stdout)
    told = [receipt[name] for name in ("pair", "guidance", "size", "handoff")]
    assert told == ["my", 3.0, "32x32", "paper"]
    assert receipt["plan"]["skip"] == 2
    assert (folder / "ecdiff.png").is_file()


def test_pairs_says_which_are_downloaded(
    offline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "not downloaded" not in " ".join(call("pairs").stdout.split())
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    result = call("pairs", "--json")
    entries = {entry["name"]: entry for entry in json.loads(result.stdout)["pairs"]}
    assert list(entries) == pairs.names()
    assert [n for n, entry in entries.items() if entry["fingerprint"]] == [
        "reference",
        "reference-video",
    ]
    monkeypatch.setenv("COLUMNS", "80")
    shown = call("pairs").stdout
    assert all(name in shown for name in pairs.names())
    assert max(map(len, shown.splitlines())) <= 80


def test_a_local_file_of_a_wrong_kind_is_one_line(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ecdiff pairs` goes on; what needs the pair says what is wrong."""
    cache = shutil.copytree(hub, tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))  # of the server that it starts
    config = snapshot(cache, "CompVis/stable-diffusion-v1-4") / "unet" / "config.json"
    config.write_text("{}")
    assert call("pairs").exit_code == 0
    result = call("generate", PROMPT, "--pair", "sd14-bksdm-tiny", "--out", tmp_path / "a.png")
    assert_one_line(result.stderr)
    assert "has no in_channels" in result.stderr
    assert not (tmp_path / "a.png").exists()


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("source", "path", "reason"),
    [
        (Source("nobody/nothing"), "unet/config.json", "not in the hub cache"),
        (Source("nota-ai/bk-sdm-tiny", "v9"), "unet/config.json", "not in the hub cache"),
        (Source("nota-ai/bk-sdm-tiny"), "unet/none.json", "HF_HUB_OFFLINE"),
        (Source("not a/name/at all"), "unet/config.json", "neither a folder nor"),
    ],
)
def test_what_is_not_cached_is_named(source: Source, path: str, reason: str) -> None:
    with pytest.raises(PairError, match=reason) as caught:
        read_json(source, path)
    assert "\n" not in str(caught.value)
    assert str(source) in str(caught.value)


HUB_ERRORS = {  # as the hub answers: status, X-Error-Code, and what our line then says
    "gated/model": (403, "GatedRepo", "accept its licence on https://huggingface.co/gated/model"),
    "no/model": (404, "RepoNotFound", "no such repository"),
    "no/revision": (404, "RevisionNotFound", "has no revision 'v9'"),
    "no/file": (404, "EntryNotFound", "no such file"),
}


class Hub(BaseHTTPRequestHandler):
    """Refuses every file, as the real one does."""

    def do_HEAD(self) -> None:
        status, code, _ = HUB_ERRORS["/".join(self.path.split("/")[1:3])]
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None: ...


def test_what_the_hub_refuses_is_one_line_each(tmp_path: Path) -> None:
    code = """
import sys
from ecdiff import pairs
from ecdiff.errors import PairError
for repo in sys.argv[1:]:
    try:
        pairs.read_json(pairs.Source(repo, "v9"), "unet/config.json")
    except PairError as error:
        print(error)
"""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, *HUB_ERRORS],
            capture_output=True,
            text=True,
            env=ENV
            | {
                "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
                "HF_HUB_CACHE": str(tmp_path),
                "HF_HUB_OFFLINE": "0",
                "NO_PROXY": "127.0.0.1",
            },
            timeout=60,
        )
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == len(HUB_ERRORS)
    for line, (repo, (_, _, said)) in zip(lines, HUB_ERRORS.items(), strict=True):
        assert line.startswith(f"cannot load unet/config.json of {repo}@v9: ")
        assert said in line


def test_a_network_that_is_not_there_is_named(offline: Path) -> None:
    """Neither its variant nor its plain files: one line, and no other word."""
    side = pairs.Side(Source("nota-ai/bk-sdm-tiny", variant="fp16"))
    from diffusers import CogVideoXTransformer3DModel

    with pytest.raises(PairError, match=r"transformer of nota-ai/bk-sdm-tiny") as caught:
        Loader(side, *CPU).network(CogVideoXTransformer3DModel, "transformer")
    assert "\n" not in str(caught.value)


def test_a_named_revision_is_used(hub: Path, offline: Path, tmp_path: Path) -> None:
    """A commit in the cache; another one is not there."""
    from hub import COMMIT

    whole = Source("nota-ai/bk-sdm-tiny", COMMIT)
    assert read_json(whole, "unet/config.json")["in_channels"] == 4
    toml = tmp_path / "my.toml"
    for revision, works in ((COMMIT, True), ("f" * 40, False)):
        side = f'model = "nota-ai/bk-sdm-tiny"\nrevision = "{revision}"\n'
        toml.write_text(f'family = "sd"\nsize = [32, 32]\n[cloud]\n{side}[edge]\n{side}')
        pair = pairs.resolve(str(toml))
        if works:
            edge = pairs.load(pair, "edge", *CPU)
            assert edge.encode(a_request())["prompt"].shape[-1] == 16
        else:
            with pytest.raises(PairError, match="fffff"):
                pairs.load(pair, "edge", *CPU)


assert os.environ["HF_HUB_OFFLINE"] == "1"  # no test may reach the hub
