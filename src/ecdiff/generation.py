"""One generation as the command line asks for it: checked before anything starts, then run."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecdiff import clips, pairs, pictures
from ecdiff.errors import InputError
from ecdiff.launch import local_server
from ecdiff.pairs import Pair
from ecdiff.plan import Plan, plan_for
from ecdiff.request import Request
from ecdiff.sources import NO_LIMIT, Memory

if TYPE_CHECKING:
    from torch import Tensor

    from ecdiff.edge.pipeline import EdgeCloudPipeline, Receipt, Result

OnStep = Callable[[str, int, int, str, bool], object]  # method, step, steps, site, evaluated
Report = Callable[[str], object]  # what is being done, while no step is


@dataclass(frozen=True)
class Ask:
    """What to generate. Raises InputError when it is made, before any model is loaded."""

    pair: Pair
    request: Request
    method: str
    steps: int
    parameters: Mapping[str, Any] = field(default_factory=dict)  # those the caller has set
    fps: float | None = None  # frames a second of the clip's file; None for a picture
    plan: Plan = field(init=False)

    def __post_init__(self) -> None:
        if (self.fps is None) != (self.request.frames is None):
            raise InputError(f"pair {self.pair.name} draws pictures: leave out --frames and --fps")
        if self.fps is not None and not 1 <= self.fps <= 240:
            raise InputError(f"fps is {self.fps:g}: use 1..240 frames a second")
        plan = plan_for(self.method, self.steps, self.pair.defaults, **self.parameters)
        object.__setattr__(self, "plan", plan)

    @property
    def count(self) -> int:
        return len(self.request.seeds)

    def places(self, out: Path | None) -> list[Path]:
        """The files or folders to write. Raises InputError when they could not be written."""
        if self.fps is None:
            return pictures.places(out or Path("ecdiff.png"), self.count)
        return clips.places(out or Path("ecdiff.mp4"), self.count)

    def save(self, images: Tensor, paths: Sequence[Path]) -> None:
        """Write each picture or clip whole or not at all."""
        drawn = pictures.as_output(images, "pil")
        if self.fps is None:
            pictures.save(drawn, paths)
        else:
            clips.save(drawn, paths, self.fps)

    @property
    def needs_cloud(self) -> bool:
        return self.plan.handoff_step > 0

    def by(self, method: str) -> Ask:
        """The same picture by another method, with that method's own parameters."""
        return self if method == self.method else replace(self, method=method, parameters={})


def ask(
    pair: str,
    prompt: str,
    method: str,
    steps: int,
    parameters: Mapping[str, Any],
    *,
    scheduler: str,
    guidance: float | None,
    negative_prompt: str,
    size: str | None,
    seed: int | None,
    count: int,
    frames: int | None = None,
    fps: float | None = None,
    handoff: str = "renoise",
) -> Ask:
    """An `Ask` in the command line's words; None takes the pair's value. Raises InputError."""
    entry = pairs.resolve(pair)
    if entry.frames is not None:
        frames = entry.frames if frames is None else frames
        fps = entry.fps if fps is None else fps
    width, height = _parse_size(size) or (entry.width, entry.height)
    first = secrets.randbits(32) if seed is None else seed
    request = Request(
        prompt,
        height,
        width,
        entry.guidance if guidance is None else guidance,
        tuple(first + j for j in range(count)),
        negative_prompt,
        scheduler,
        frames=frames,
        handoff=handoff,
    )
    return Ask(entry, request, method, steps, parameters, fps)


def _parse_size(text: str | None) -> tuple[int, int] | None:
    """(width, height) of `WxH`."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,4})x(\d{1,4})", text)
    if match is None:
        raise InputError(f"size is {text!r}: use WIDTHxHEIGHT, each below 10000, such as 128x128")
    return int(match[1]), int(match[2])


@dataclass(frozen=True)
class Place:
    """Where the two sides run, and as what. Raises InputError."""

    pair: str
    cloud: str | None  # the server's address; None: a server of our own, where one is needed
    token: str | None
    device: str | None
    dtype: str | None
    memory: Memory = NO_LIMIT  # of both sides, where both are here

    def __post_init__(self) -> None:
        pairs.check_dtype(self.dtype)


@contextmanager
def pipeline(place: Place, needs_cloud: bool, report: Report) -> Iterator[EdgeCloudPipeline]:
    """A pipeline with its cloud ready; a server of our own is stopped on leaving.

    Both processes load at the same time. Raises InputError, PairError, ServeError.
    """
    with ExitStack() as stack:
        server = None
        report("loading the models")
        if place.cloud is None and needs_cloud:
            server = stack.enter_context(
                local_server(place.pair, place.device, place.dtype, place.memory)
            )
        from ecdiff.edge.client import Network
        from ecdiff.edge.pipeline import EdgeCloudPipeline

        if place.cloud is not None and needs_cloud:  # the wrong server, known before the models
            fingerprint = pairs.fingerprint(pairs.resolve(place.pair))
            asyncio.run(Network(place.cloud, place.token).check_pair(fingerprint))
        pipe = EdgeCloudPipeline.from_pretrained(
            place.pair,
            server.url() if server else place.cloud,
            token=server.token if server else place.token,
            device=place.device,
            dtype=place.dtype,
            **asdict(place.memory),
        )
        if server:
            server.wait_until_ready()
        yield pipe


def run(pipe: EdgeCloudPipeline, ask: Ask, on_step: OnStep) -> Result:
    """Generate `ask`; `images` are a tensor [B, 3, H, W], of clips [B, F, 3, H, W], in [0, 1]."""
    request = ask.request

    def callback(_: object, step: int, timestep: float, told: dict[str, Any]) -> None:
        on_step(ask.method, step, ask.steps, told["site"], told["evaluated"])

    return pipe(
        request.prompt,
        negative_prompt=request.negative_prompt,
        num_inference_steps=ask.steps,
        guidance_scale=request.guidance,
        num_images_per_prompt=ask.count,
        height=request.height,
        width=request.width,
        num_frames=request.frames,
        seed=request.seeds[0],
        output_type="pt",
        callback_on_step_end=callback,
        scheduler=request.scheduler,
        handoff=request.handoff,
        method=ask.method,
        **ask.parameters,
    )


def receipt_lines(receipt: Receipt) -> list[str]:
    """What was done and what it took, to be read by a person."""
    request, seconds, counts = receipt.request, receipt.seconds, receipt.plan.counts()
    pictures = len(request.seeds)
    seeds = f"{request.seeds[0]}" + (f"..{request.seeds[-1]}" if pictures > 1 else "")
    size = f"{request.width}x{request.height}"
    size += f", {request.frames} frames" if request.frames else ""
    parts = [
        f"{getattr(seconds, name):.2f} {name}"
        for name in ("cloud", "transfer", "edge", "encode", "decode")
    ]
    return [
        f"{receipt.method} on pair {receipt.pair}, {size}, "
        f"seed {seeds}, guidance {request.guidance:g}, {request.scheduler}",
        f"plan     {receipt.plan}",
        f"steps    {counts.cloud_evaluated} evaluated in the cloud, "
        f"{counts.edge_evaluated} at the edge, {counts.extrapolated} extrapolated",
        f"seconds  {seconds.total:.2f} ({', '.join(parts)})",
        f"bytes    {receipt.bytes.sent:,} sent, {receipt.bytes.received:,} received",
    ]
