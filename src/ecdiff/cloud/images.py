"""`POST /v1/images/generations`: the OpenAI image API, finished on this server."""

from __future__ import annotations

import base64
import re
import secrets
import time
from typing import Any, Literal

from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest
from PIL.Image import Image
from pydantic import BaseModel, ConfigDict

from ecdiff.cloud.connection import InterruptedJobError, while_connected
from ecdiff.cloud.engine import Engine
from ecdiff.errors import InputError
from ecdiff.pictures import to_png
from ecdiff.plan import Plan, plan_for
from ecdiff.relay import Job
from ecdiff.request import Request

router = APIRouter()


class ImageRequest(BaseModel):
    """OpenAI's fields, then ours. Fields that mean nothing here are accepted and ignored."""

    model_config = ConfigDict(extra="forbid")

    prompt: str
    model: str | None = None
    n: int = 1
    size: str | None = None  # "WxH" or "auto"
    response_format: Literal["b64_json"] = "b64_json"
    stream: bool = False
    user: str | None = None
    quality: str | None = None
    # ours
    seed: int | None = None
    negative_prompt: str = ""
    guidance: float | None = None
    scheduler: str = "ddim"
    steps: int = 50
    method: str = "ec-diff"
    plan: dict[str, Any] | None = None


@router.post("/v1/images/generations", response_model=None)
async def generations(body: ImageRequest, http: HttpRequest) -> dict[str, object] | Response:
    engine: Engine = http.app.state.engine
    job = _job(engine, body)
    try:
        pictures = await while_connected(http.receive, _pictures(engine, job))
    except InterruptedJobError:
        return Response(status_code=499)  # nobody is there to read it
    pngs = [to_png(picture) for picture in pictures]
    return {
        "created": int(time.time()),
        "data": [{"b64_json": base64.b64encode(png).decode()} for png in pngs],
        "seeds": list(job.request.seeds),
        "plan": job.plan.to_json(),
    }


async def _pictures(engine: Engine, job: Job) -> list[Image]:
    async with engine.run(engine.generate(job)) as events:
        finished = [event async for event in events if isinstance(event, list)]
    return finished[0]


def _job(engine: Engine, body: ImageRequest) -> Job:
    """Raises InputError or PlanError."""
    pair = engine.pair
    if pair.frames is not None:
        raise InputError(
            f"pair {pair.name} draws clips and this is the image API: use `ecdiff generate`"
        )
    if body.stream:
        raise InputError("stream: this server does not stream pictures yet, leave it out")
    if body.model not in (None, pair.name):
        raise InputError(f"model {body.model!r}: this server has {pair.name!r}")
    if not 1 <= body.n <= engine.limits.pictures:
        raise InputError(f"n is {body.n}: use 1..{engine.limits.pictures}")
    if body.plan is not None:
        plan = Plan.from_json(body.plan)
    else:
        plan = plan_for(body.method, body.steps, pair.defaults)
    width, height = _size(body.size) or (pair.width, pair.height)
    seed = secrets.randbits(32) if body.seed is None else body.seed
    request = Request(
        body.prompt,
        height,
        width,
        pair.guidance if body.guidance is None else body.guidance,
        tuple(seed + j for j in range(body.n)),
        body.negative_prompt,
        body.scheduler,
    )
    job = Job(request, plan, engine.fingerprint)
    engine.limits.check(job)
    return job


def _size(text: str | None) -> tuple[int, int] | None:
    if text in (None, "auto"):
        return None
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if match is None:
        raise InputError(f"size is {text!r}: use WIDTHxHEIGHT, such as 512x512")
    return int(match[1]), int(match[2])
