"""EdgeCloudPipeline: from a prompt to pictures, with the cloud wherever it is."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Coroutine, Generator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from ecdiff import pairs
from ecdiff.edge.client import InProcess, Network, Relayed, Transport
from ecdiff.errors import InputError, PayloadError
from ecdiff.handoff import Payload, pack
from ecdiff.pairs import Pair
from ecdiff.pictures import as_output
from ecdiff.plan import Plan, Site, plan_for
from ecdiff.relay import Job, in_thread, leave, model_thread, unpack_for
from ecdiff.request import Request
from ecdiff.sources import Memory
from ecdiff.trajectory import (
    Conditioning,
    Family,
    Snapshot,
    StepEvent,
    run_stretch,
)

T = TypeVar("T")
StepCallback = Callable[["EdgeCloudPipeline", int, float, dict[str, Any]], object]
OUTPUT_TYPES = ("pil", "np", "pt", "latent")


@dataclass
class Seconds:
    """Wall time. `encode` overlaps `cloud`; `total` is not the sum."""

    encode: float = 0.0
    cloud: float = 0.0
    transfer: float = 0.0
    edge: float = 0.0
    decode: float = 0.0
    total: float = 0.0


@dataclass
class Bytes:
    sent: int = 0
    received: int = 0


@dataclass(frozen=True)
class Receipt:
    """What was asked, what was done and what it took."""

    pair: str
    request: Request
    plan: Plan
    seconds: Seconds
    bytes: Bytes
    method: str | None  # None when the caller brought a plan
    outcome: str = "complete"

    def to_json(self) -> dict[str, Any]:
        lead = self.plan.phases[0]
        return {
            "pair": self.pair,
            "method": self.method,
            "scheduler": self.request.scheduler,
            "guidance": self.request.guidance,
            "size": f"{self.request.width}x{self.request.height}",
            "frames": self.request.frames,
            "handoff": self.request.handoff,
            "seed": self.request.seeds[0],
            "prompt": self.request.prompt,
            "negative_prompt": self.request.negative_prompt,
            "plan": {
                "warmup": lead.warmup,
                "skip": lead.skip,
                "smoothing": lead.smoothing,
                "handoff_step": self.plan.handoff_step,
                **self.plan.to_json(),
            },
            "counts": asdict(self.plan.counts()),
            "seconds": {name: round(value, 4) for name, value in asdict(self.seconds).items()},
            "bytes": asdict(self.bytes),
            "outcome": self.outcome,
        }


@dataclass(frozen=True)
class Result:
    """`images`: PIL images, or one array or tensor of all, by the call's `output_type`."""

    images: Any
    receipt: Receipt


@dataclass
class _Call:
    """One call's own state."""

    request: Request
    plan: Plan
    on_step: Callable[[StepEvent], object]
    seconds: Seconds = field(default_factory=Seconds)
    bytes: Bytes = field(default_factory=Bytes)


class EdgeCloudPipeline:
    """The edge model, and a way to its cloud. Keeps nothing of a call once it is done."""

    def __init__(
        self, pair: Pair, edge: Family, transport: Transport, executor: Executor | None = None
    ) -> None:
        self.pair = pair
        self.fingerprint = pairs.fingerprint(pair)
        self._edge, self._transport = edge, transport
        self._conversion = pairs.conversion(pair, "edge")
        self._executor = executor or model_thread()

    @classmethod
    def from_pretrained(
        cls,
        pair: str | Pair,
        cloud: str | None = None,
        *,
        token: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        connect_timeout: float = 10.0,
        read_timeout: float = 60.0,
        offload: bool = False,
        vae_tiling: bool = False,
        vae_slicing: bool = False,
    ) -> EdgeCloudPipeline:
        """Load the edge model of a pair: a name, a TOML file, or a folder with `cloud/`, `edge/`.

        `cloud` is the server's address (`ws://HOST:PORT`); None runs the cloud model in this
        process too. `offload` keeps on the GPU only the part that works. Raises InputError,
        PairError.
        """
        chosen = pairs.resolve(pair) if isinstance(pair, str) else pair
        where, precision = pairs.place(device, dtype, chosen)
        memory = Memory(offload, vae_tiling, vae_slicing)
        executor = model_thread()
        fingerprint = pairs.fingerprint(chosen)  # before the weights: it finds most mistakes

        def load(site: Site) -> Family:
            return pairs.load(chosen, site, where, precision, memory)

        transport: Transport
        if cloud is None:
            transport = InProcess(
                lambda: load("cloud"),
                fingerprint,
                executor,
                pairs.conversion(chosen, "cloud"),
                send_conditioning=chosen.embeddings == "cloud",
            )
        else:
            transport = Network(cloud, token, connect_timeout, read_timeout)
        return cls(chosen, executor.submit(load, "edge").result(), transport, executor)

    def __call__(self, prompt: str, **options: Any) -> Result:
        """`generate`, waiting for the result. Takes the same arguments."""
        return _wait_for(self.generate(prompt, **options))

    async def generate(
        self,
        prompt: str,
        *,
        negative_prompt: str | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float | None = None,
        num_images_per_prompt: int = 1,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        seed: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pil",
        callback_on_step_end: StepCallback | None = None,
        scheduler: str = "ddim",
        method: str = "ec-diff",
        plan: Plan | None = None,
        warmup: int | None = None,
        skip: int | None = None,
        smoothing: float | None = None,
        handoff_step: int | None = None,
        handoff: str = "renoise",
        use_dynamic_cfg: bool = False,
    ) -> Result:
        """Generate pictures or clips of one prompt. Sizes in pixels; defaults are the pair's.

        Picture j has seed `seed + j`. `warmup` (p), `skip` (k), `smoothing` (alpha) and
        `handoff_step` (s) change the method's plan; `plan` replaces it. After each step, in the
        cloud or here, `callback_on_step_end(pipeline, step, timestep, {"site", "evaluated"})`
        is called; an exception from it cancels the generation. `handoff` says how latents cross
        to an edge model of another scale: `renoise`, `rescale` or `paper`.

        Raises InputError, LinkError, PayloadError.
        """
        if output_type not in OUTPUT_TYPES:
            raise InputError(f"output_type {output_type!r}: use one of {', '.join(OUTPUT_TYPES)}")
        if not isinstance(prompt, str):
            raise InputError("one prompt a call: pass a string, and call again for the next one")
        if not isinstance(plan, Plan | None):
            raise InputError(
                f"plan is {plan!r}: pass an ecdiff Plan, or leave it out for the method's"
            )
        parameters = {"warmup": warmup, "skip": skip, "smoothing": smoothing}
        parameters["handoff_step"] = handoff_step
        if plan is not None and any(value is not None for value in parameters.values()):
            raise InputError("plan replaces warmup, skip, smoothing and handoff_step: pass either")
        chosen = plan or plan_for(method, num_inference_steps, self.pair.defaults, **parameters)  # type: ignore[arg-type]
        request = Request(
            prompt,
            self.pair.height if height is None else height,
            self.pair.width if width is None else width,
            self.pair.guidance if guidance_scale is None else guidance_scale,
            _seeds(seed, generator, num_images_per_prompt),
            negative_prompt or "",
            scheduler,
            self.pair.frames if num_frames is None else num_frames,
            handoff,
            use_dynamic_cfg,
        )

        def on_step(event: StepEvent) -> object:
            if callback_on_step_end is None:
                return None
            told = {"site": event.site, "evaluated": event.evaluated}
            return callback_on_step_end(self, event.step, event.timestep, told)

        call = _Call(request, chosen, on_step)
        images = await self._run(call, output_type)
        used = None if plan is not None else method
        receipt = Receipt(self.pair.name, request, chosen, call.seconds, call.bytes, used)
        return Result(images, receipt)

    async def _run(self, call: _Call, output_type: str) -> Any:
        began = time.perf_counter()
        encoding = asyncio.ensure_future(self._encode(call))  # while the cloud is at work
        try:
            taken = Payload("handoff", self.fingerprint, ())  # what the next stretch begins from
            for site, _, end in call.plan.stretches():
                if site == "cloud":
                    taken = await self._cloud_stretch(call, taken, end)
                else:
                    conditioning = taken.conditioning or await encoding
                    taken = await self._edge_stretch(call, conditioning, taken, end)
        finally:
            encoding.cancel()
            await asyncio.gather(encoding, return_exceptions=True)
        latents = torch.cat([s.latents for s in taken.snapshots])
        images = await self._finish(call, latents, output_type)
        call.seconds.total = time.perf_counter() - began
        return images

    async def _encode(self, call: _Call) -> Conditioning:
        first = call.plan.handoff_step
        if first == call.plan.steps or (first > 0 and self.pair.embeddings == "cloud"):
            return {}  # no edge step will ask for it, or the cloud sends it
        began = time.perf_counter()
        conditioning = await self._in_model_thread(lambda: self._edge.encode(call.request))
        call.seconds.encode = time.perf_counter() - began
        return conditioning

    async def _cloud_stretch(self, call: _Call, taken: Payload, end: int) -> Payload:
        """Raises PayloadError for an answer that is not this stretch's end."""
        began = time.perf_counter()
        states, given = taken.snapshots, None
        job = Job(call.request, call.plan, self.fingerprint, resume=bool(states))
        payload = pack("handoff", self.fingerprint, states) if states else None
        async with aclosing(self._transport.relay(job, payload)) as events:  # type: ignore[type-var]
            async for event in events:
                if isinstance(event, Relayed):
                    given = await self._in_model_thread(partial(self._accept, job, event.payload))
                    call.seconds.cloud += event.seconds
                    call.bytes.sent += event.sent
                    call.bytes.received += event.received
                    call.seconds.transfer += time.perf_counter() - began - event.seconds
                else:
                    call.on_step(
                        StepEvent(
                            event.step, call.plan.steps, event.timestep, "cloud", event.evaluated
                        )
                    )
        if given is None or given.snapshots[0].step != end:
            raise PayloadError(f"the cloud did not hand over at step {end} as the plan says")
        if end < call.plan.steps and self.pair.embeddings == "cloud" and not given.conditioning:
            raise PayloadError("the cloud did not send the encoded prompt: this pair needs it")
        return given

    def _accept(self, job: Job, data: bytes) -> Payload:
        """Raises PayloadError or PairError for a payload that the edge cannot go on from."""
        payload = unpack_for(job, self.fingerprint, data)
        for state in payload.snapshots:
            self._edge.begin(job.request, job.plan, state.seed, {}, state)
        return payload

    async def _edge_stretch(
        self, call: _Call, conditioning: Conditioning, taken: Payload, end: int
    ) -> Payload:
        began = time.perf_counter()
        finished: list[Snapshot] = []
        conversion = self._conversion if end < call.plan.steps else None  # the cloud goes on

        def work() -> Generator[StepEvent, None, None]:
            trajectories = yield from run_stretch(
                self._edge, call.request, call.plan, conditioning, taken.snapshots or None
            )
            finished.extend(leave(self._edge, t, conversion) for t in trajectories)

        async with in_thread(self._executor, work()) as events:
            async for event in events:
                call.on_step(event)
        call.seconds.edge += time.perf_counter() - began
        return Payload("handoff", self.fingerprint, tuple(finished))

    async def _finish(self, call: _Call, latents: Tensor, output_type: str) -> Any:
        if output_type == "latent":
            return latents

        began = time.perf_counter()
        images = await self._in_model_thread(
            lambda: as_output(self._edge.decode(latents), output_type)
        )
        call.seconds.decode = time.perf_counter() - began
        return images

    async def _in_model_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


def _seeds(
    seed: int | None,
    generator: torch.Generator | Sequence[torch.Generator] | None,
    count: int,
) -> tuple[int, ...]:
    """One seed a picture. Raises InputError for a used generator: its place cannot be sent."""
    if count < 1:
        raise InputError(f"the number of pictures is {count}: use at least 1")
    if seed is not None and generator is not None:
        raise InputError("pass a seed or a generator, not both")
    if generator is None:
        first = secrets.randbits(32) if seed is None else seed
        return tuple(first + j for j in range(count))
    if isinstance(generator, torch.Generator):
        first = _fresh_seed(generator)
        return tuple(first + j for j in range(count))
    if len(generator) != count:
        raise InputError(f"{len(generator)} generators for {count} pictures: pass one a picture")
    return tuple(_fresh_seed(each) for each in generator)


def _fresh_seed(generator: torch.Generator) -> int:
    seed = generator.initial_seed()
    fresh = torch.Generator(generator.device).manual_seed(seed)
    if not torch.equal(generator.get_state(), fresh.get_state()):
        raise InputError(
            "the generator has been used: its seed alone travels, pass a fresh one or a seed"
        )
    return seed


def _wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end from ordinary code, also inside a running event loop (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
