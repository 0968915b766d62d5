from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import safetensors.torch
import torch
from conftest import a_request
from torch import Tensor

from ecdiff.errors import (
    DtypeError,
    FingerprintError,
    NonFiniteError,
    PayloadError,
    PayloadVersionError,
    TooLargeError,
    TruncatedError,
)
from ecdiff.extrapolate import History
from ecdiff.handoff import pack, unpack
from ecdiff.plan import Phase, Plan
from ecdiff.trajectory import Snapshot

PRINT = "a" * 64
PLAN = Plan(12, (Phase("cloud", 8, 3, 2, 0.3), Phase("edge", 4)))


def a_snapshot(seed: int = 7, dtype: torch.dtype = torch.float32) -> Snapshot:
    generator = torch.Generator().manual_seed(seed)
    latents, noise, gradient, x0 = torch.randn((4, 1, 4, 8, 8), generator=generator).to(dtype)
    request = a_request(seeds=(7, 8), negative_prompt="blue")
    history = History(noise, gradient)
    return Snapshot(request, PLAN, seed, 5, 581.5, latents, history, {"x0-1": x0}, draws=3)


def two() -> list[Snapshot]:
    return [a_snapshot(7), a_snapshot(8)]


def assert_equal(a: Snapshot, b: Snapshot) -> None:
    plain = ("request", "plan", "seed", "step", "timestep", "draws")
    assert [getattr(a, name) for name in plain] == [getattr(b, name) for name in plain]
    assert a.scheduler.keys() == b.scheduler.keys()
    ours, theirs = ([s.latents, *s.history, *s.scheduler.values()] for s in (a, b))
    for x, y in zip(ours, theirs, strict=True):
        assert (x is None) == (y is None)
        assert x is None or y is None or (x.dtype == y.dtype and torch.equal(x, y))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_checkpoint_comes_back_whole(dtype: torch.dtype) -> None:
    sent = [a_snapshot(7, dtype), a_snapshot(8, dtype)]
    got = unpack(pack("checkpoint", PRINT, sent), PRINT)
    assert (got.kind, got.fingerprint) == ("checkpoint", PRINT)
    for a, b in zip(got.snapshots, sent, strict=True):
        assert_equal(a, b)


def test_a_handoff_leaves_the_extrapolation_history_behind_and_keeps_the_solver_s() -> None:
    got = unpack(pack("handoff", PRINT, two()), PRINT)
    assert got.kind == "handoff"
    for a, b in zip(got.snapshots, two(), strict=True):
        assert_equal(a, replace(b, history=History()))


def test_tensors_keep_their_own_dtype_and_need_not_be_contiguous() -> None:
    whole = torch.randn(2, 4, 8, 8)
    sent = [
        replace(
            a_snapshot(7 + j),
            latents=whole[j : j + 1].transpose(2, 3),
            history=History(whole[j : j + 1].half(), whole[j : j + 1].bfloat16()),
        )
        for j in range(2)
    ]
    for a, b in zip(unpack(pack("checkpoint", PRINT, sent), PRINT).snapshots, sent, strict=True):
        assert_equal(a, b)


def test_the_end_of_a_plan_has_no_timestep() -> None:
    sent = [replace(s, step=12, timestep=None) for s in two()]
    got = unpack(pack("handoff", PRINT, sent), PRINT).snapshots
    assert (got[0].step, got[0].timestep) == (12, None)


def test_a_clip_s_latents_and_its_encoded_prompt() -> None:
    latents = torch.randn(1, 3, 4, 8, 8)
    clip = replace(a_snapshot(), latents=latents, history=History(), scheduler={})
    prompt = {"prompt": torch.randn(1, 12, 16).bfloat16(), "negative_pooled": torch.randn(1, 6)}
    data = pack(
        "handoff", PRINT, [clip, replace(clip, seed=8, latents=latents + 1)], conditioning=prompt
    )
    got = unpack(data, PRINT)
    assert torch.equal(got.snapshots[1].latents, latents + 1)
    assert got.conditioning.keys() == prompt.keys()
    for name, tensor in prompt.items():
        assert got.conditioning[name].dtype == tensor.dtype
        assert torch.equal(got.conditioning[name], tensor)


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(12), torch.zeros(2, 4), torch.zeros(1, 1, 1, 1, 2), torch.tensor([[torch.nan]])],
    ids=["1-D", "two rows", "5-D", "NaN"],
)
def test_what_is_not_an_encoded_prompt_is_refused(tensor: Tensor) -> None:
    with pytest.raises(PayloadError, match="conditioning"):
        unpack(rebuilt(**{"conditioning/prompt": tensor}), PRINT)


def test_too_many_encoded_prompts_are_refused() -> None:
    many = {f"conditioning/prompt_{j}": torch.zeros(1, 4) for j in range(17)}
    with pytest.raises(PayloadError, match="at most 16"):
        unpack(rebuilt(**many), PRINT)


@pytest.mark.parametrize("draws", [-1, 11, 1.5, "3", None])
def test_a_count_of_draws_that_cannot_be_is_refused(draws: object) -> None:
    with pytest.raises(PayloadError, match="drawn by 5"):
        unpack(rebuilt({"draws": draws}), PRINT)


def rebuilt(header: dict[str, Any] | None = None, **tensors: Tensor) -> bytes:
    """A valid payload of two pictures with header fields and tensors changed."""
    data = pack("checkpoint", PRINT, two())
    end = 8 + int.from_bytes(data[:8], "little")
    fields = json.loads(json.loads(data[8:end])["__metadata__"]["ecdiff"])
    mixed = safetensors.torch.load(data) | tensors
    return safetensors.torch.save(mixed, {"ecdiff": json.dumps(fields | (header or {}))})


LAYOUT = {"dtype": "F32", "shape": [1, 4, 8, 8], "data_offsets": [0, 1024]}


def raw(layout: object, body: bytes = bytes(4096)) -> bytes:
    """A payload whose safetensors header is `layout`, whatever that is."""
    text = layout if isinstance(layout, bytes) else json.dumps(layout).encode()
    return len(text).to_bytes(8, "little") + text + body


def raw_tensors(tensors: dict[str, object], size: int) -> bytes:
    """`tensors` in place of those of a valid payload, its header kept."""
    data = pack("checkpoint", PRINT, two())
    end = 8 + int.from_bytes(data[:8], "little")
    return raw({"__metadata__": json.loads(data[8:end])["__metadata__"]} | tensors, bytes(size))


def test_the_rebuilt_payload_is_valid() -> None:
    assert len(unpack(rebuilt(), PRINT).snapshots) == 2
    both = {f"{j}/latents": LAYOUT | {"data_offsets": [j * 1024, (j + 1) * 1024]} for j in range(2)}
    assert len(unpack(raw_tensors(both, 2048), PRINT).snapshots) == 2


GOOD = torch.zeros(1, 4, 8, 8)
BAD: dict[str, tuple[Callable[[], bytes], type[PayloadError], str]] = {
    "version": (lambda: rebuilt({"format": 1}), PayloadVersionError, "format 1"),
    "no version": (lambda: rebuilt({"format": None}), PayloadVersionError, "None"),
    "fingerprint": (lambda: rebuilt({"fingerprint": "b" * 64}), FingerprintError, "bbbb.*aaaa"),
    "no fingerprint": (lambda: rebuilt({"fingerprint": None}), FingerprintError, "None"),
    "kind": (lambda: rebuilt({"kind": "present"}), PayloadError, "'present'"),
    "prompt hash": (lambda: rebuilt({"prompt_sha256": "0" * 64}), PayloadError, "hash"),
    "plan": (lambda: rebuilt({"plan": {"steps": 3}}), PayloadError, "0 steps"),
    "no plan": (lambda: rebuilt({"plan": None}), PayloadError, "plan"),
    "request": (lambda: rebuilt({"request": {"prompt": "a"}}), PayloadError, "request"),
    "request is text": (lambda: rebuilt({"request": "{}"}), PayloadError, "request"),
    "step over the plan": (lambda: rebuilt({"step": 13}), PayloadError, "13"),
    "step under 0": (lambda: rebuilt({"step": -1}), PayloadError, "-1"),
    "step is text": (lambda: rebuilt({"step": "5"}), PayloadError, "'5'"),
    "step is true": (lambda: rebuilt({"step": True}), PayloadError, "True"),
    "timestep": (lambda: rebuilt({"timestep": "soon"}), PayloadError, "'soon'"),
    "int64": (lambda: rebuilt(**{"0/noise": GOOD.long()}), DtypeError, "0/noise is I64"),
    "float64": (lambda: rebuilt(**{"1/latents": GOOD.double()}), DtypeError, "F64"),
    "bool": (lambda: rebuilt(**{"1/latents": GOOD.bool()}), DtypeError, "BOOL"),
    "NaN": (lambda: rebuilt(**{"1/gradient": GOOD / 0}), NonFiniteError, "1/gradient"),
    "infinity": (lambda: rebuilt(**{"0/latents": GOOD + torch.inf}), NonFiniteError, "0/latents"),
    "one more picture": (lambda: rebuilt(**{"2/latents": GOOD}), PayloadError, "2/latents"),
    "another name": (lambda: rebuilt(**{"0/weights": GOOD}), PayloadError, "0/weights"),
    "a path": (lambda: rebuilt(**{"0/scheduler/../x": GOOD}), PayloadError, "unexpected"),
    "no number": (lambda: rebuilt(latents=GOOD), PayloadError, "'latents'"),
    "one other shape": (
        lambda: rebuilt(**{"0/noise": torch.zeros(1, 4, 8, 9)}),
        PayloadError,
        "shape",
    ),
    "a scalar": (lambda: rebuilt(**{"0/noise": torch.zeros(())}), PayloadError, "shape"),
    "no tensors": (lambda: raw_tensors({}, 0), PayloadError, "shape"),
    "three dimensions": (
        lambda: raw_tensors({"0/latents": LAYOUT | {"shape": [4, 8, 8]}}, 1024),
        PayloadError,
        "shape",
    ),
    "one picture missing": (
        lambda: raw_tensors({"0/latents": LAYOUT}, 1024),
        PayloadError,
        "picture 1",
    ),
    "overlapping tensors": (
        lambda: raw_tensors({"0/latents": LAYOUT, "1/latents": LAYOUT}, 1024),
        PayloadError,
        "cannot be read",
    ),
    "a hole": (
        lambda: raw_tensors({"0/latents": LAYOUT | {"data_offsets": [8, 1032]}}, 1032),
        PayloadError,
        "cannot be read",
    ),
    "backwards": (
        lambda: raw_tensors({"0/latents": LAYOUT | {"data_offsets": [1024, 0]}}, 1024),
        PayloadError,
        "cannot be read",
    ),
    "negative shape": (
        lambda: raw_tensors({"0/latents": LAYOUT | {"shape": [-1, 4, 8, 8]}}, 1024),
        PayloadError,
        "cannot be read",
    ),
    "shape larger than its bytes": (
        lambda: raw_tensors({"0/latents": LAYOUT | {"shape": [1, 4, 8, 2**40]}}, 1024),
        PayloadError,
        "cannot be read",
    ),
    "bytes left over": (
        lambda: pack("checkpoint", PRINT, two()) + b"x",
        PayloadError,
        "cannot be read",
    ),
    "empty": (lambda: b"", TruncatedError, "0 bytes"),
    "a huge header": (lambda: b"\xff" * 8 + b"{}", TruncatedError, "header"),
    "not JSON": (lambda: raw(b"hello"), PayloadError, "not an ecdiff payload"),
    "not UTF-8": (lambda: raw(b"\xff\xfe{}"), PayloadError, "not an ecdiff payload"),
    "a list": (lambda: raw([1, 2]), PayloadError, "not an ecdiff payload"),
    "no header": (lambda: raw({"0/latents": LAYOUT}), PayloadError, "not an ecdiff payload"),
    "header of a number": (lambda: raw({"__metadata__": {"ecdiff": "3"}}), PayloadError, "not an"),
    "deep JSON": (lambda: raw(b"[" * 200_000), PayloadError, "not an ecdiff payload"),
    "an infinite offset": (
        lambda: raw(
            b'{"__metadata__": {"ecdiff": "{}"}, "0/latents":'
            b' {"dtype": "F32", "data_offsets": [0, 1e999]}}'
        ),
        PayloadError,
        "not an ecdiff payload",
    ),
    "other safetensors": (
        lambda: safetensors.torch.save({"w": GOOD}),
        PayloadError,
        "not an ecdiff payload",
    ),
    "a pickle": (lambda: b"\x80\x04\x95" + bytes(100), TruncatedError, "bytes"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_a_payload_is_refused_by_its_own_error(name: str) -> None:
    make, error, message = BAD[name]
    with pytest.raises(PayloadError, match=message) as caught:
        unpack(make(), PRINT)
    assert type(caught.value) is error


def test_a_payload_cut_off_anywhere_is_refused() -> None:
    data = pack("checkpoint", PRINT, two())
    body = 8 + int.from_bytes(data[:8], "little")
    for cut in (1, 7, 8, 9, body // 2, body - 1, body, body + 1, (body + len(data)) // 2):
        with pytest.raises(TruncatedError):
            unpack(data[:cut], PRINT)
    with pytest.raises(TruncatedError):
        unpack(data[:-1], PRINT)


def test_the_size_cap_holds_both_ways() -> None:
    data = pack("checkpoint", PRINT, two())
    assert unpack(data, PRINT, len(data))
    with pytest.raises(TooLargeError, match=f"{len(data):,}.*{len(data) - 1:,}"):
        unpack(data, PRINT, len(data) - 1)
    with pytest.raises(TooLargeError):
        pack("checkpoint", PRINT, two(), len(data) - 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_not_sent(value: float) -> None:
    latents = a_snapshot().latents.clone()
    latents[0, 2, 3, 4] = value
    with pytest.raises(NonFiniteError, match="0/latents"):
        pack("handoff", PRINT, [replace(a_snapshot(), latents=latents), a_snapshot(8)])


def test_corrupted_payloads_raise_payload_errors_only() -> None:
    data = pack("checkpoint", PRINT, two())
    body = 8 + int.from_bytes(data[:8], "little")
    chance = random.Random(0)
    for trial in range(600):
        bad = bytearray(data)
        for _ in range(chance.choice((1, 2, 8))):
            bad[chance.randrange(body if trial % 3 else len(bad))] = chance.randrange(256)
        if trial % 5 == 0:
            start = chance.randrange(body)
            del bad[start : start + chance.randrange(1, 40)]
        try:
            payload = unpack(bytes(bad), PRINT)
        except PayloadError:
            continue
        assert all(s.latents.isfinite().all() for s in payload.snapshots)


def test_garbage_raises_payload_errors_only() -> None:
    chance = random.Random(1)
    for _ in range(200):
        with pytest.raises(PayloadError):
            unpack(chance.randbytes(chance.randrange(200)), PRINT)
        text = chance.randbytes(50)
        with pytest.raises(PayloadError):
            unpack(len(text).to_bytes(8, "little") + text, PRINT)
