"""One generation as the command line asks for it: checked before anything starts, then run."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ecdiff.errors import InputError
from ecdiff.launch import local_server
from ecdiff.pairs import DTYPES, Pair
from ecdiff.plan import Plan, plan_for
from ecdiff.request import Request

if TYPE_CHECKING:
    from ecdiff.edge.pipeline import EdgeCloudPipeline, Result

OnStep = Callable[["Ask", int, str, bool], object]  # ask, step, site, evaluated
Report = Callable[[str], object]  # what is being done, while no step is


@dataclass(frozen=True)
class Ask:
    """What to generate. Raises InputError when it is made, before any model is loaded."""

    pair: Pair
    request: Request
    method: str
    steps: int
    parameters: Mapping[str, Any] = field(default_factory=dict)  # those the caller has set
    plan: Plan = field(init=False)

    def __post_init__(self) -> None:
        plan = plan_for(self.method, self.steps, self.pair.defaults, **self.parameters)
        object.__setattr__(self, "plan", plan)

    @property
    def needs_cloud(self) -> bool:
        return self.plan.handoff_step > 0

    def by(self, method: str) -> Ask:
        """The same picture by another method, with that method's own parameters."""
        return self if method == self.method else replace(self, method=method, parameters={})


def seeds_from(seed: int | None, count: int) -> tuple[int, ...]:
    """One a picture: `seed`, or a random one, and those after it."""
    first = secrets.randbits(32) if seed is None else seed
    return tuple(first + j for j in range(count))


def parse_size(text: str | None, pair: Pair) -> tuple[int, int]:
    """(width, height) in pixels of `WxH`, or of the pair. Raises InputError."""
    if text is None:
        return pair.width, pair.height
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if match is None:
        raise InputError(f"size is {text!r}: use WIDTHxHEIGHT in pixels, such as 128x128")
    return int(match[1]), int(match[2])


def check_dtype(dtype: str | None) -> None:
    """Raises InputError."""
    if dtype not in (None, *DTYPES):
        raise InputError(f"no dtype {dtype!r}: use one of {', '.join(DTYPES)}")


@dataclass(frozen=True)
class Place:
    """Where the two sides run."""

    cloud: str | None  # the server's address; None: a server of our own, where one is needed
    token: str | None
    device: str | None
    dtype: str | None


@contextmanager
def pipeline(
    pair: str, place: Place, needs_cloud: bool, report: Report
) -> Iterator[EdgeCloudPipeline]:
    """A pipeline with its cloud ready; a server of our own is stopped on leaving.

    Both processes load at the same time. Raises InputError, PairError, ServeError.
    """
    with ExitStack() as stack:
        server = None
        report("loading the models")
        if place.cloud is None and needs_cloud:
            server = stack.enter_context(local_server(pair, place.device, place.dtype))
        from ecdiff.edge.pipeline import EdgeCloudPipeline

        pipe = EdgeCloudPipeline.from_pretrained(
            pair,
            server.url() if server else place.cloud,
            token=server.token if server else place.token,
            device=place.device,
            dtype=place.dtype,
        )
        if server:
            server.wait_until_ready()
        yield pipe


def run(pipe: EdgeCloudPipeline, ask: Ask, on_step: OnStep) -> Result:
    """Generate `ask`; the result's `images` are a tensor [B, 3, H, W] in [0, 1]."""
    request = ask.request

    def callback(_: object, step: int, timestep: float, told: dict[str, Any]) -> None:
        on_step(ask, step, told["site"], told["evaluated"])

    return pipe(
        request.prompt,
        negative_prompt=request.negative_prompt,
        num_inference_steps=ask.steps,
        guidance_scale=request.guidance,
        num_images_per_prompt=len(request.seeds),
        height=request.height,
        width=request.width,
        seed=request.seeds[0],
        output_type="pt",
        callback_on_step_end=callback,
        scheduler=request.scheduler,
        method=ask.method,
        **ask.parameters,
    )
