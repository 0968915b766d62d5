"""The OpenAI API, called with OpenAI's own client."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from conftest import Running, running
from PIL import Image

from ecdiff.edge.pipeline import EdgeCloudPipeline
from ecdiff.pairs import Pair
from ecdiff.plan import Phase, Plan

PLAN = Plan(8, (Phase("cloud", 6, 3, 2, 0.3), Phase("edge", 2)))
OURS = {"seed": 7, "plan": PLAN.to_json()}


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.http}/v1", api_key="none", max_retries=0) as client:
        yield client


def decoded(response: Any) -> list[Image.Image]:
    files = [base64.b64decode(item.b64_json) for item in response.data]
    images = [Image.open(io.BytesIO(file)) for file in files]
    assert all(image.format == "PNG" for image in images)
    return images


def test_pictures_equal_the_pipeline_s(
    client: openai.OpenAI, pair_folder: Path, pair: Pair
) -> None:
    response = client.images.generate(
        prompt="a red house", model=pair.name, n=2, size="48x32", extra_body=OURS
    )
    images = decoded(response)
    assert [image.size for image in images] == [(48, 32)] * 2
    pipe = EdgeCloudPipeline.from_pretrained(str(pair_folder))
    ours = pipe("a red house", plan=PLAN, seed=7, num_images_per_prompt=2, height=32, width=48)
    for theirs, mine in zip(images, ours.images, strict=True):
        assert np.array_equal(np.asarray(theirs), np.asarray(mine))
    assert response.model_extra is not None
    assert response.model_extra["seeds"] == [7, 8]
    assert Plan.from_json(response.model_extra["plan"]) == PLAN


def test_the_seed_decides_the_picture(client: openai.OpenAI) -> None:
    def generate(**ours: Any) -> list[bytes]:
        body = {"steps": 4, "method": "cloud"} | ours
        response = client.images.generate(prompt="a fish", model=None, extra_body=body)
        return [image.tobytes() for image in decoded(response)]

    assert generate(seed=3) == generate(seed=3) != generate(seed=4)
    assert generate() != generate()


def test_the_size_defaults_to_the_pair_s(client: openai.OpenAI, pair: Pair) -> None:
    for size in ("auto", openai.omit):
        response = client.images.generate(
            prompt="a", size=size, extra_body={"steps": 1, "method": "edge"}
        )
        assert [image.size for image in decoded(response)] == [(pair.width, pair.height)]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "stream": ({"stream": True}, "stream"),
    "prompt": ({"prompt": " "}, "prompt is empty"),
    "n": ({"n": 0}, "n is 0"),
    "many": ({"n": 17}, "n is 17: use 1..16"),
    "size": ({"size": "big"}, "'big'"),
    "odd size": ({"size": "33x32"}, "width is 33"),
    "large size": ({"size": "8192x8192"}, "67108864 pixels"),
    "model": ({"model": "dall-e-3"}, "'dall-e-3'"),
    "url": ({"response_format": "url"}, "response_format"),
    "seed": ({"extra_body": {"seed": -1}}, "seed is -1"),
    "steps": ({"extra_body": {"steps": 0}}, "0"),
    "too many steps": ({"extra_body": {"steps": 1001}}, "1001 steps"),
    "method": ({"extra_body": {"method": "magic"}}, "'magic'"),
    "scheduler": ({"extra_body": {"scheduler": "heun"}}, "'heun'"),
    "plan": ({"extra_body": {"plan": {"steps": 3, "phases": []}}}, "0 steps in all"),
    "plan type": ({"extra_body": {"plan": "CCC"}}, "plan"),
    "guidance": ({"extra_body": {"guidance": -1}}, "guidance is -1"),
    "unknown": ({"extra_body": {"sede": 1}}, "sede"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_a_bad_request_with_our_message(name: str, client: openai.OpenAI) -> None:
    changes, message = BAD[name]
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(**({"prompt": "a red house"} | changes))
    error = caught.value
    assert error.status_code == 400
    assert isinstance(error.body, dict)
    assert message in error.body["message"]
    assert error.type == "invalid_request_error"
    assert error.code in ("bad_input", "bad_plan")


def test_a_body_that_is_not_json(server: Running) -> None:
    answer = httpx.post(f"{server.http}/v1/images/generations", content=b"{")
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "bad_input"


def test_the_api_key_is_the_token(pair: Pair) -> None:
    with running(pair, token="secret") as server:
        wrong = openai.OpenAI(base_url=f"{server.http}/v1", api_key="wrong", max_retries=0)
        with pytest.raises(openai.AuthenticationError, match="bearer token"):
            wrong.images.generate(prompt="a")
        right = openai.OpenAI(base_url=f"{server.http}/v1", api_key="secret", max_retries=0)
        body = {"steps": 1, "method": "cloud"}
        assert decoded(right.images.generate(prompt="a", extra_body=body))
