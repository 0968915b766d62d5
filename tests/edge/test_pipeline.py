from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Running, a_request, fake_server, run_plan, unet_rows, wait_until
from websockets.sync.server import ServerConnection

from ecdiff import EdgeCloudPipeline, pairs
from ecdiff.edge.client import InProcess, Network, Relayed
from ecdiff.errors import (
    EcdiffError,
    FingerprintError,
    InputError,
    LinkError,
    NonFiniteError,
    PairError,
    PayloadError,
    TruncatedError,
)
from ecdiff.families.sd import StableDiffusion
from ecdiff.handoff import pack
from ecdiff.pairs import Pair
from ecdiff.plan import METHODS, Phase, Plan, split
from ecdiff.relay import Job, Step, model_thread
from ecdiff.trajectory import Snapshot

QUICK: dict[str, Any] = {"seed": 7, "output_type": "latent", "num_inference_steps": 10}


@pytest.fixture(scope="module")
def near(pair_folder: Path) -> EdgeCloudPipeline:
    return EdgeCloudPipeline.from_pretrained(str(pair_folder))


@pytest.fixture(scope="module")
def far(pair_folder: Path, server: Running) -> EdgeCloudPipeline:
    return EdgeCloudPipeline.from_pretrained(str(pair_folder), cloud=server.ws)


@pytest.fixture(scope="module")
def families(
    cloud_model: StableDiffusion, edge_model: StableDiffusion
) -> dict[str, StableDiffusion]:
    return {"cloud": cloud_model, "edge": edge_model}


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "dpm++", "lcm"])
def test_over_the_socket_equals_in_process_equals_no_payload_at_all(
    scheduler: str, near: EdgeCloudPipeline, far: EdgeCloudPipeline, families: dict[str, Any]
) -> None:
    for method in METHODS:
        options = QUICK | {"method": method, "scheduler": scheduler, "guidance_scale": 5.0}
        a, b = near("a red house", **options), far("a red house", **options)
        assert torch.equal(a.images, b.images)
        direct = run_plan(families, a_request(scheduler=scheduler), a.receipt.plan)
        assert torch.equal(a.images, direct)


def test_any_plan_runs_over_the_socket(
    near: EdgeCloudPipeline, far: EdgeCloudPipeline, families: dict[str, Any]
) -> None:
    """The edge first, then the cloud, and both extrapolating."""
    phases = (
        Phase("edge", 2),
        Phase("cloud", 6, 2, 2, 0.3, guidance=2.0),
        Phase("cloud", 2),
        Phase("edge", 6, 2, 1, 0.5, "reuse"),
        Phase("cloud", 2),
    )
    plan = Plan(18, phases)
    options = {"seed": 7, "plan": plan, "output_type": "latent", "guidance_scale": 5.0}
    direct = run_plan(families, a_request(scheduler="dpm++"), plan)
    for pipe in (near, far):
        result = pipe("a red house", scheduler="dpm++", **options)
        assert torch.equal(result.images, direct)
        assert result.receipt.method is None


def test_pipelines_used_in_turn_never_meet(
    near: EdgeCloudPipeline, far: EdgeCloudPipeline, pair_folder: Path
) -> None:
    other = EdgeCloudPipeline.from_pretrained(str(pair_folder))
    first = near("a red house", **QUICK).images
    for pipe, prompt, scheduler in ((other, "a fish", "dpm++"), (far, "snow", "euler")):
        pipe(prompt, scheduler=scheduler, **(QUICK | {"seed": 3}))
        near("a blue fish", **(QUICK | {"seed": 4}))
        assert torch.equal(near("a red house", **QUICK).images, first)
        assert torch.equal(pipe("a red house", **QUICK).images, first)


def test_calls_at_the_same_time_never_meet(far: EdgeCloudPipeline, near: EdgeCloudPipeline) -> None:
    for pipe in (near, far):

        async def together(pipe: EdgeCloudPipeline = pipe) -> list[Any]:
            calls = (pipe.generate("a fish", **(QUICK | {"seed": seed})) for seed in range(3))
            return await asyncio.gather(*calls)

        for seed, result in enumerate(asyncio.run(together())):
            alone = near("a fish", **(QUICK | {"seed": seed}))
            assert torch.equal(result.images, alone.images)


def test_pictures_of_one_call_equal_each_alone(near: EdgeCloudPipeline) -> None:
    three = near("a fish", num_images_per_prompt=3, **QUICK).images
    for j in range(3):
        alone = near("a fish", **(QUICK | {"seed": 7 + j})).images
        assert (three[j] - alone[0]).abs().max() <= 1e-4


def test_output_types(near: EdgeCloudPipeline) -> None:
    def run(output_type: str) -> Any:
        options = QUICK | {"output_type": output_type, "height": 32, "width": 48}
        return near("a fish", num_images_per_prompt=2, **options).images

    assert run("latent").shape == (2, 4, 8, 12)
    pt, np_, pil = run("pt"), run("np"), run("pil")
    assert pt.shape == (2, 3, 32, 48)
    assert np.array_equal(np_, pt.permute(0, 2, 3, 1).numpy())
    assert [image.size for image in pil] == [(48, 32)] * 2
    for image, array in zip(pil, np_, strict=True):
        assert np.abs(np.asarray(image) / 255 - array).max() <= 0.5 / 255 + 1e-6


def test_the_callback_is_told_every_step_in_order(far: EdgeCloudPipeline) -> None:
    told: list[tuple[Any, ...]] = []
    result = far("a fish", callback_on_step_end=lambda *args: told.append(args), **QUICK)
    assert all(pipe is far for pipe, *_ in told)
    assert [step for _, step, *_ in told] == list(range(10))
    assert [timestep for *_, timestep, _ in told] == sorted((t[2] for t in told), reverse=True)
    marks = {("cloud", True): "C", ("edge", True): "E", ("cloud", False): "x"}
    printed = "".join(marks[more["site"], more["evaluated"]] for *_, more in told)
    assert printed == str(result.receipt.plan)


@pytest.mark.parametrize(("site", "handoff_step"), [("cloud", 780), ("edge", 2)])
def test_an_exception_from_the_callback_cancels(
    site: str, handoff_step: int, far: EdgeCloudPipeline, near: EdgeCloudPipeline, server: Running
) -> None:
    seen = []

    def stop(pipe: object, step: int, timestep: float, more: dict[str, Any]) -> None:
        seen.append(step)
        if step == 4:
            assert more["site"] == site
            raise KeyError("enough")

    for pipe in (far, near):
        seen.clear()
        with pytest.raises(KeyError, match="enough"):
            pipe(
                "a fish",
                method="hybrid-sd",
                num_inference_steps=790,
                handoff_step=handoff_step,
                callback_on_step_end=stop,
                seed=1,
            )
        assert seen == [0, 1, 2, 3, 4]
    wait_until(lambda: server.engine.jobs == 0)
    assert near("a fish", **QUICK).images.isfinite().all()


def test_inside_a_running_event_loop(near: EdgeCloudPipeline) -> None:
    async def notebook() -> Any:
        return near("a fish", **QUICK).images, (await near.generate("a fish", **QUICK)).images

    blocking, awaited = asyncio.run(notebook())
    assert torch.equal(blocking, awaited)


def test_a_fresh_generator_is_its_seed(near: EdgeCloudPipeline) -> None:
    def run(**how: Any) -> torch.Tensor:
        options = {k: v for k, v in QUICK.items() if k != "seed"}
        images: torch.Tensor = near("a fish", **(options | how)).images
        return images

    def fresh(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    expected = run(seed=7)
    generator = fresh(7)
    assert torch.equal(run(generator=generator), expected)
    assert torch.equal(run(generator=generator), expected)  # it was not drawn from
    both = run(generator=[fresh(7), fresh(3)], num_images_per_prompt=2)
    assert torch.allclose(both[:1], expected, atol=1e-4)
    assert torch.allclose(both[1:], run(seed=3), atol=1e-4)
    two = run(generator=fresh(7), num_images_per_prompt=2)
    assert torch.equal(two, run(seed=7, num_images_per_prompt=2))


def test_a_used_generator_is_refused(near: EdgeCloudPipeline) -> None:
    used = torch.Generator().manual_seed(7)
    torch.randn(1, generator=used)
    with pytest.raises(InputError, match="has been used"):
        near("a fish", generator=used)
    with pytest.raises(InputError, match="has been used"):
        near("a fish", generator=[torch.Generator(), used], num_images_per_prompt=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 1, "generator": torch.Generator()}, "not both"),
        ({"generator": [torch.Generator()], "num_images_per_prompt": 2}, "1 generators for 2"),
        ({"num_images_per_prompt": 0}, "pictures is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"output_type": "jpeg"}, "'jpeg'"),
        ({"method": "magic"}, "'magic'"),
        ({"num_inference_steps": 0}, "0"),
        ({"handoff_step": 51}, "51 with 50"),
        ({"guidance_scale": float("nan")}, "guidance is nan"),
        ({"height": 33}, "height is 33"),
        ({"scheduler": "heun"}, "'heun'"),
        ({"plan": split(4, 2), "skip": 2}, "plan replaces"),
        ({"plan": "ec-diff"}, "plan is 'ec-diff'"),
        ({"method": "cloud", "warmup": 2}, "warm-up"),
        ({"num_inference_steps": 1000}, "1000 steps"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_bad_input_names_the_value(
    options: dict[str, Any], message: str, near: EdgeCloudPipeline
) -> None:
    with pytest.raises(InputError, match=message):
        near("a fish", **options)


@pytest.mark.parametrize("prompt", ["", "  ", ["two", "prompts"], None])
def test_a_prompt_is_one_string_that_says_something(prompt: Any, near: EdgeCloudPipeline) -> None:
    with pytest.raises(InputError, match="prompt"):
        near(prompt)


def test_the_receipt_says_what_was_done(far: EdgeCloudPipeline, pair: Pair) -> None:
    result = far("a fish", negative_prompt="red", scheduler="euler", **(QUICK | {"height": 40}))
    receipt = json.loads(json.dumps(result.receipt.to_json()))
    assert receipt["pair"] == pair.name
    assert receipt["method"] == "ec-diff"
    assert receipt["scheduler"] == "euler"
    assert receipt["guidance"] == pair.guidance
    assert receipt["size"] == "32x40"
    assert (receipt["prompt"], receipt["negative_prompt"]) == ("a fish", "red")
    assert receipt["seed"] == 7
    assert receipt["outcome"] == "complete"
    assert receipt["plan"].items() >= {"warmup": 7, "skip": 2, "handoff_step": 7}.items()
    assert receipt["counts"] == {
        "cloud_evaluated": 7,
        "extrapolated": 0,
        "edge_extrapolated": 0,
        "edge_evaluated": 3,
    }
    seconds = receipt["seconds"]
    assert list(seconds) == ["encode", "cloud", "transfer", "edge", "decode", "total"]
    assert seconds["decode"] == 0  # latents were asked for
    assert all(seconds[name] > 0 for name in ("encode", "cloud", "edge", "total"))
    assert seconds["cloud"] + seconds["transfer"] + seconds["edge"] <= seconds["total"] + 0.01
    assert receipt["bytes"]["sent"] > 100
    assert receipt["bytes"]["received"] > 4 * 8 * 10 * 4


def test_nothing_travels_for_an_edge_only_plan(pair_folder: Path) -> None:
    alone = EdgeCloudPipeline.from_pretrained(str(pair_folder), cloud="ws://127.0.0.1:9")
    result = alone("a fish", method="edge", **QUICK)
    assert result.images.isfinite().all()
    assert (result.receipt.bytes.sent, result.receipt.bytes.received) == (0, 0)
    with pytest.raises(LinkError):
        alone("a fish", **QUICK)


def test_the_edge_encodes_the_prompt_while_the_cloud_is_at_work(
    pair: Pair, cloud_model: StableDiffusion, edge_model: StableDiffusion
) -> None:
    """A cloud that starts only when the edge has encoded: in turn, they would wait for ever."""
    encoded = threading.Event()
    hook = edge_model.text_encoder.register_forward_hook(lambda *_: encoded.set())

    class Patient(InProcess):
        async def relay(self, job: Job, payload: bytes | None) -> AsyncIterator[Step | Relayed]:
            assert await asyncio.to_thread(encoded.wait, 20)
            async for event in super().relay(job, payload):
                yield event

    transport = Patient(lambda: cloud_model, pairs.fingerprint(pair), model_thread())
    try:
        result = EdgeCloudPipeline(pair, edge_model, transport)("a fish", **QUICK)
        assert result.images.isfinite().all()
    finally:
        hook.remove()


PLAN = split(10, 6)
GOOD = Snapshot(a_request(), PLAN, 7, 6, 301.0, torch.zeros(1, 4, 8, 8))


def relabelled(data: bytes, old: bytes, new: bytes) -> bytes:
    assert data.count(old) >= 1
    assert len(old) == len(new)
    return data.replace(old, new)


def not_finite(print_: str) -> bytes:
    data = pack("handoff", print_, [GOOD])
    return data[:-4] + b"\x00\x00\xc0\x7f"


CORRUPT: dict[str, tuple[Any, type[EcdiffError], str]] = {
    "garbage": (lambda p: b"garbage", TruncatedError, "7 bytes"),
    "cut off": (lambda p: pack("handoff", p, [GOOD])[:-100], TruncatedError, "bytes"),
    "NaN": (not_finite, NonFiniteError, "0/latents"),
    "another pair": (lambda p: pack("handoff", "b" * 64, [GOOD]), FingerprintError, "bbbb"),
    "another request": (
        lambda p: pack("handoff", p, [replace(GOOD, request=a_request(prompt="a fish"))]),
        PayloadError,
        "another request",
    ),
    "another prompt": (
        lambda p: relabelled(pack("handoff", p, [GOOD]), b"a red house", b"a big house"),
        PayloadError,
        "altered",
    ),
    "another plan": (
        lambda p: pack("handoff", p, [replace(GOOD, plan=split(10, 7))]),
        PayloadError,
        "plan",
    ),
    "too early": (
        lambda p: pack("handoff", p, [replace(GOOD, step=2, timestep=701.0)]),
        PayloadError,
        "step 6",
    ),
    "another size": (
        lambda p: pack("handoff", p, [replace(GOOD, latents=torch.zeros(1, 4, 8, 9))]),
        PayloadError,
        "shape",
    ),
    "another schedule": (
        lambda p: pack("handoff", p, [replace(GOOD, timestep=300.0)]),
        PairError,
        "timestep 300",
    ),
    "another solver": (
        lambda p: pack("handoff", p, [replace(GOOD, scheduler={"x0-1": GOOD.latents.clone()})]),
        PayloadError,
        "x0-1",
    ),
}


def answers_with(payload: bytes) -> Any:
    def behave(link: ServerConnection) -> None:
        link.recv()
        link.send('{"event": "accepted", "queue": 0}')
        link.send('{"event": "done", "seconds": 0.1}')
        link.send(payload)

    return behave


@pytest.mark.parametrize("name", CORRUPT)
def test_a_corrupt_handoff_is_refused_by_its_own_error(
    name: str, pair: Pair, edge_model: StableDiffusion
) -> None:
    make, error, message = CORRUPT[name]
    payload = make(pairs.fingerprint(pair))
    with fake_server(pair, answers_with(payload)) as port, unet_rows(edge_model) as rows:
        pipe = pipeline_to(port, pair, edge_model)
        with pytest.raises(error, match=message) as caught:
            pipe("a red house", plan=PLAN, seed=7, guidance_scale=5.0)
    assert type(caught.value) is error
    assert rows == []


def test_a_good_handoff_is_taken(pair: Pair, edge_model: StableDiffusion) -> None:
    """So that the test above fails for the reasons it gives."""
    payload = pack("handoff", pairs.fingerprint(pair), [GOOD])
    with fake_server(pair, answers_with(payload)) as port:
        pipe = pipeline_to(port, pair, edge_model)
        assert pipe("a red house", plan=PLAN, seed=7, guidance_scale=5.0).images


def test_a_finished_picture_of_another_size_is_refused(
    pair: Pair, edge_model: StableDiffusion
) -> None:
    """The edge runs no step of an all-cloud plan, and looks all the same."""
    plan = split(10, 10)
    end = replace(GOOD, plan=plan, step=10, timestep=None, latents=torch.zeros(1, 8, 8, 8))
    payload = pack("handoff", pairs.fingerprint(pair), [end])
    with fake_server(pair, answers_with(payload)) as port:
        pipe = pipeline_to(port, pair, edge_model)
        with pytest.raises(PayloadError, match="shape"):
            pipe("a red house", plan=plan, seed=7, guidance_scale=5.0)


def pipeline_to(port: int, pair: Pair, edge_model: StableDiffusion) -> EdgeCloudPipeline:
    return EdgeCloudPipeline(pair, edge_model, Network(f"ws://127.0.0.1:{port}"))


def test_an_unknown_pair_or_device_is_named(tmp_path: Path, pair_folder: Path) -> None:
    with pytest.raises(InputError, match="'no-such-pair'"):
        EdgeCloudPipeline.from_pretrained("no-such-pair")
    with pytest.raises(PairError, match=r"cloud/model_index\.json is missing"):
        EdgeCloudPipeline.from_pretrained(str(tmp_path))
    with pytest.raises(InputError, match="'abacus'"):
        EdgeCloudPipeline.from_pretrained(str(pair_folder), device="abacus")
    with pytest.raises(InputError, match="'float8'"):
        EdgeCloudPipeline.from_pretrained(str(pair_folder), dtype="float8")
