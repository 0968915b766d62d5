"""A tiny pair with random weights, of the real classes, in the layout of a real folder."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch starts: tiny models need no more

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from torch import Tensor

    from ecdiff.cloud.engine import Engine
    from ecdiff.families.sd import StableDiffusion
    from ecdiff.pairs import Pair
    from ecdiff.plan import Plan
    from ecdiff.request import Request
    from ecdiff.trajectory import Trajectory

WORDS = ["a", "big", "red", "house", "snow", "in", "the", "blue", "fish"]


def tiny_vae(**more: object) -> AutoencoderKL:
    """Pictures four times as wide and high as their latents of four channels."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(4, 4, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=2,
        **more,
    )


def make_pair(folder: Path, seed: int = 0, **scheduler: object) -> Path:
    """Write `cloud/` and `edge/` under `folder`: 32x32 pictures, 8x8x4 latents."""
    import torch
    from diffusers import DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(seed)

    def unet(layers: int) -> UNet2DConditionModel:
        return UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=(8, 16),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=layers,
            cross_attention_dim=16,
            attention_head_dim=4,
            norm_num_groups=4,
        )

    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    tokens = letters + [letter + "</w>" for letter in letters]
    vocabulary = {t: i for i, t in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=16)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=16,
            bos_token_id=vocabulary["<|startoftext|>"],
            eos_token_id=vocabulary["<|endoftext|>"],
        )
    )
    vae = tiny_vae(sample_size=32, scaling_factor=0.5)
    settings: dict[str, object] = {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
    unet(2).save_pretrained(folder / "cloud" / "unet")
    unet(1).save_pretrained(folder / "edge" / "unet")
    text.save_pretrained(folder / "cloud" / "text_encoder")
    tokenizer.save_pretrained(folder / "cloud" / "tokenizer")
    vae.save_pretrained(folder / "cloud" / "vae")
    DDIMScheduler(**(settings | scheduler)).save_pretrained(folder / "cloud" / "scheduler")
    (folder / "cloud" / "model_index.json").write_text(
        """{
  "_class_name": "StableDiffusionPipeline",
  "feature_extractor": [null, null],
  "image_encoder": [null, null],
  "requires_safety_checker": false,
  "safety_checker": [null, null],
  "scheduler": ["diffusers", "DDIMScheduler"],
  "text_encoder": ["transformers", "CLIPTextModel"],
  "tokenizer": ["transformers", "CLIPTokenizer"],
  "unet": ["diffusers", "UNet2DConditionModel"],
  "vae": ["diffusers", "AutoencoderKL"]
}
"""
    )
    return folder


@pytest.fixture(scope="session")
def pair_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pair(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def pair(pair_folder: Path) -> Pair:
    from ecdiff import pairs

    return pairs.resolve(str(pair_folder))


@pytest.fixture(scope="session")
def cloud_model(pair: Pair) -> StableDiffusion:
    import torch

    from ecdiff import pairs

    return pairs.load(pair, "cloud", torch.device("cpu"), torch.float32)


@pytest.fixture(scope="session")
def edge_model(pair: Pair) -> StableDiffusion:
    import torch

    from ecdiff import pairs

    return pairs.load(pair, "edge", torch.device("cpu"), torch.float32)


def a_request(**changes: Any) -> Request:
    """A request for one 32x32 picture, with `changes`."""
    from ecdiff.request import Request

    usual = {"prompt": "a red house", "height": 32, "width": 32, "guidance": 5.0, "seeds": (7,)}
    return Request(**(usual | changes))


def finish(family: Any, request: Request, plan: Plan, states: Any = None) -> list[Trajectory]:
    """Run one stretch of a plan to its end."""
    from ecdiff.trajectory import run_stretch

    work = run_stretch(family, request, plan, family.encode(request), states)
    while True:
        try:
            next(work)
        except StopIteration as end:
            return list(end.value)


def run_plan(families: dict[str, Any], request: Request, plan: Plan) -> Tensor:
    """The latents [B, C, h, w] of a whole plan, without a payload or a socket between sites."""
    import torch

    from ecdiff.trajectory import snapshot

    states = None
    for site, _, _ in plan.stretches():
        done = finish(families[site], request, plan, states)
        states = [snapshot(families[site], t) for t in done]
    return torch.cat([t.latents for t in done])


@contextmanager
def unet_rows(family: StableDiffusion) -> Iterator[list[int]]:
    """The row count of every call of the U-Net."""
    rows: list[int] = []
    hook = family.unet.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    try:
        yield rows
    finally:
        hook.remove()


@dataclass(frozen=True)
class Running:
    """A server in a thread of this process."""

    engine: Engine
    port: int
    stop: Callable[[], None]
    thread: threading.Thread

    @property
    def alive(self) -> bool:
        return self.thread.is_alive()

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.port}"


@contextmanager
def running(
    pair: Pair, token: str | None = None, wait_ready: bool = True, **limits: int
) -> Iterator[Running]:
    """Serve `pair` on a free port of loopback."""
    import torch

    from ecdiff.cloud.engine import Engine
    from ecdiff.cloud.limits import Limits
    from ecdiff.cloud.server import bind, create_app, make_server

    engine = Engine(pair, torch.device("cpu"), torch.float32, Limits(**limits))
    listener = bind("127.0.0.1", 0, token)
    port = listener.getsockname()[1]
    uvicorn_server = make_server(create_app(engine, token), engine.limits.payload)
    thread = threading.Thread(target=uvicorn_server.run, kwargs={"sockets": [listener]})

    def stop() -> None:
        uvicorn_server.should_exit = True

    thread.start()
    try:
        wait_until(lambda: uvicorn_server.started and (engine.ready or not wait_ready))
        yield Running(engine, port, stop, thread)
    finally:
        stop()
        thread.join(20)
        assert not thread.is_alive()


def wait_until(holds: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"did not happen in {seconds:g} s"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def server(pair: Pair) -> Iterator[Running]:
    with running(pair) as server:
        yield server


@contextmanager
def fake_server(
    pair: Pair,
    behave: Callable[[Any], object],
    port: int = 0,
    entries: list[dict[str, Any]] | None = None,
    body: bytes | None = None,
    status: int = 200,
) -> Iterator[int]:
    """The port of a server that lists `pair` (or `entries`, or `body`), then does `behave`."""
    from websockets.datastructures import Headers
    from websockets.http11 import Response
    from websockets.sync.server import serve

    from ecdiff import pairs

    listing = {"pairs": [pairs.describe(pair)] if entries is None else entries}
    page = json.dumps(listing).encode() if body is None else body

    def respond(connection: Any, request: Any) -> Response | None:
        if request.path != "/v1/pairs":
            return None
        headers = Headers({"Content-Length": str(len(page)), "Connection": "close"})
        return Response(status, "Said", headers, page)

    with serve(behave, "127.0.0.1", port, process_request=respond, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.socket.getsockname()[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    from ecdiff import generation

    def refuse(*args: object) -> None:
        raise AssertionError("a server was started")

    monkeypatch.setattr(generation, "local_server", refuse)
