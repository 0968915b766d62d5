"""What travels between models: safetensors bytes with a JSON header, checked both ways.

A *checkpoint* lets the same model go on and carries the whole state; a *handoff* lets the other
model go on and leaves the extrapolation history behind. Neither is ever unpickled.

Tensors of picture j: `j/latents` ([1, C, h, w], of a clip [1, F, C, h, w]), and, of the same shape
where there are any, `j/noise`, `j/gradient` (extrapolation history) and `j/scheduler/NAME`
(multistep history). `conditioning/NAME` [1, ...], the encoded prompt, comes along where the pair
says that the edge has no text encoder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from ecdiff.errors import (
    DtypeError,
    FingerprintError,
    InputError,
    NonFiniteError,
    PayloadError,
    PayloadVersionError,
    TooLargeError,
    TruncatedError,
)
from ecdiff.extrapolate import History
from ecdiff.plan import Plan
from ecdiff.request import Request
from ecdiff.trajectory import Conditioning, Snapshot
from ecdiff.validate import parse, to_plain

Kind = Literal["checkpoint", "handoff"]
FORMAT = 2
MAX_BYTES = 64 * 2**20
DTYPES = ("F32", "F16", "BF16")
_MALFORMED = (  # what reading made-up JSON may raise
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    OverflowError,
    RecursionError,
)
_NAME = re.compile(r"(\d{1,4})/(latents|noise|gradient|scheduler/[a-z0-9-]{1,32})")
_CONDITIONING = re.compile(r"conditioning/([a-z0-9_]{1,32})")
MAX_CONDITIONING = 16  # tensors


@dataclass(frozen=True)
class Payload:
    """One or more pictures of one request, all at the same step."""

    kind: Kind
    fingerprint: str
    snapshots: tuple[Snapshot, ...]
    conditioning: Conditioning = field(default_factory=dict)  # empty: the edge has its own


def pack(
    kind: Kind,
    fingerprint: str,
    snapshots: Sequence[Snapshot],
    max_bytes: int = MAX_BYTES,
    conditioning: Conditioning | None = None,
) -> bytes:
    """Raises NonFiniteError or TooLargeError instead of sending what cannot be accepted."""
    if kind == "handoff":
        snapshots = [replace(s, history=History()) for s in snapshots]
    first = snapshots[0]
    header = {
        "format": FORMAT,
        "kind": kind,
        "fingerprint": fingerprint,
        "step": first.step,
        "timestep": first.timestep,
        "draws": first.draws,
        "plan": to_plain(first.plan),
        "request": to_plain(first.request),
        "prompt_sha256": first.request.prompt_sha256,
    }
    tensors = {
        f"{j}/{name}": tensor.detach().cpu().contiguous()
        for j, s in enumerate(snapshots)
        for name, tensor in _tensors_of(s).items()
    }
    for name, tensor in (conditioning or {}).items():
        tensors[f"conditioning/{name}"] = tensor.detach().cpu().contiguous()
    for name, tensor in tensors.items():
        _check_finite(name, tensor)
    data = safetensors.torch.save(tensors, {"ecdiff": json.dumps(header)})
    _check_size(len(data), max_bytes)
    return data


def unpack(data: bytes, fingerprint: str, max_bytes: int = MAX_BYTES) -> Payload:
    """Read and check a payload made for the pair with this `fingerprint`.

    Raises a PayloadError (see `ecdiff.errors`) for anything that is not exactly that.
    """
    _check_size(len(data), max_bytes)
    header = _read_header(data)
    if header.get("format") != FORMAT:
        raise PayloadVersionError(
            f"payload format {header.get('format')!r}, this ecdiff reads {FORMAT}: "
            "run the same ecdiff version on both sides"
        )
    if header.get("fingerprint") != fingerprint:
        raise FingerprintError(
            f"the payload was made for pair {str(header.get('fingerprint'))[:12]}, "
            f"this side has {fingerprint[:12]}: use the same --pair on both sides"
        )
    kind, step, timestep = header.get("kind"), header.get("step"), header.get("timestep")
    draws = header.get("draws")
    if kind not in ("checkpoint", "handoff"):
        raise PayloadError(f"payload of kind {kind!r}: expected a checkpoint or a handoff")
    try:
        plan = parse(Plan, header.get("plan"), "the payload's plan")
        request = parse(Request, header.get("request"), "the payload's request")
    except InputError as error:
        raise PayloadError(str(error)) from error
    if header.get("prompt_sha256") != request.prompt_sha256:
        raise PayloadError("the payload's prompt hash is not that of its prompt: it was altered")
    if type(step) is not int or not plan.start <= step <= plan.steps:
        raise PayloadError(f"the payload stands at step {step!r} of a {plan.steps}-step plan")
    if timestep is not None and type(timestep) not in (int, float):
        raise PayloadError(f"the payload's timestep is {timestep!r}, not a number")
    if type(draws) is not int or not 0 <= draws <= 2 * step:
        raise PayloadError(f"the payload says that {draws!r} tensors of noise were drawn by {step}")
    tensors = _load(data)
    conditioning = _take_conditioning(tensors)
    groups = _group(tensors, len(request.seeds))
    snapshots = tuple(
        replace(_snapshot(request, plan, seed, step, timestep, group), draws=draws)
        for seed, group in zip(request.seeds, groups, strict=True)
    )
    return Payload(kind, fingerprint, snapshots, conditioning)


def _take_conditioning(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take the encoded prompt's tensors out of `tensors`, each [1, ...] and finite."""
    names = [name for name in tensors if _CONDITIONING.fullmatch(name)]
    if len(names) > MAX_CONDITIONING:
        raise PayloadError(f"{len(names)} conditioning tensors: at most {MAX_CONDITIONING}")
    taken = {name.removeprefix("conditioning/"): tensors.pop(name) for name in names}
    for name, tensor in taken.items():
        if not 2 <= tensor.ndim <= 4 or len(tensor) != 1:
            raise PayloadError(f"conditioning {name} has shape {tuple(tensor.shape)}, not [1, ...]")
        _check_finite(f"conditioning/{name}", tensor)
    return taken


def _tensors_of(s: Snapshot) -> dict[str, Tensor]:
    named = {"latents": s.latents, **s.history._asdict()}
    named |= {f"scheduler/{name}": tensor for name, tensor in s.scheduler.items()}
    return {name: tensor for name, tensor in named.items() if tensor is not None}


def _snapshot(
    request: Request,
    plan: Plan,
    seed: int,
    step: int,
    timestep: float | None,
    tensors: dict[str, Tensor],
) -> Snapshot:
    history = History(tensors.get("noise"), tensors.get("gradient"))
    prefix = "scheduler/"
    scheduler = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    return Snapshot(request, plan, seed, step, timestep, tensors["latents"], history, scheduler)


def _read_header(data: bytes) -> dict[str, Any]:
    """The ecdiff header, after checking that every tensor it announces is there and allowed."""
    if len(data) < 8:
        raise TruncatedError(f"the payload has {len(data)} bytes: it was cut off")
    end = 8 + int.from_bytes(data[:8], "little")
    if end > len(data):
        raise TruncatedError(f"the payload has {len(data)} bytes, its header alone needs {end}")
    try:
        layout = json.loads(data[8:end])
        header = json.loads(layout.pop("__metadata__")["ecdiff"])
        tensors = {n: (e["dtype"], int(e["data_offsets"][1])) for n, e in layout.items()}
    except _MALFORMED as error:
        raise PayloadError("these bytes are not an ecdiff payload") from error
    if not isinstance(header, dict):
        raise PayloadError("these bytes are not an ecdiff payload")
    for name, (dtype, tensor_end) in tensors.items():
        if dtype not in DTYPES:
            raise DtypeError(f"tensor {name} is {dtype}: allowed are {', '.join(DTYPES)}")
        if end + tensor_end > len(data):
            raise TruncatedError(
                f"the payload has {len(data)} bytes, tensor {name} ends at {end + tensor_end}"
            )
    return header


def _load(data: bytes) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(data)
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise PayloadError(f"the payload's tensors cannot be read: {error}") from error
    return tensors


def _group(tensors: dict[str, Tensor], count: int) -> list[dict[str, Tensor]]:
    """The tensors by picture, each checked: known name, one common shape, finite."""
    groups: list[dict[str, Tensor]] = [{} for _ in range(count)]
    shapes = {tuple(tensor.shape) for tensor in tensors.values()}
    if len(shapes) != 1 or len(shape := shapes.pop()) not in (4, 5) or shape[0] != 1:
        raise PayloadError("the payload's tensors must all have one shape [1, (F,) C, h, w]")
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name)
        if match is None or int(match[1]) >= count:
            raise PayloadError(f"unexpected tensor {name!r} in a payload of {count} pictures")
        _check_finite(name, tensor)
        groups[int(match[1])][match[2]] = tensor
    for j, group in enumerate(groups):
        if "latents" not in group:
            raise PayloadError(f"the payload has no latents for picture {j}")
    return groups


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise TooLargeError(
            f"a payload of {size:,} bytes is over the limit of {max_bytes:,}: "
            "ask for fewer or smaller pictures"
        )


def _check_finite(name: str, tensor: Tensor) -> None:
    if not tensor.isfinite().all():
        raise NonFiniteError(f"tensor {name} holds NaN or infinity: the model overflowed")
