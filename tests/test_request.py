from __future__ import annotations

import json

import pytest
from conftest import a_request

from ecdiff.errors import InputError
from ecdiff.request import Request
from ecdiff.validate import parse, to_plain


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": " \n"}, "prompt is empty"),
        ({"height": 33}, "height is 33"),
        ({"width": 0}, "width is 0"),
        ({"width": -8}, "width is -8"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"guidance": float("inf")}, "guidance is inf"),
        ({"guidance": -1.0}, "guidance is -1"),
        ({"scheduler": "heun"}, "'heun'"),
        ({"seeds": ()}, "no seed"),
        ({"seeds": tuple(range(257))}, "257 pictures"),
        ({"seeds": (3, -1)}, "seed is -1"),
        ({"seeds": (2**63,)}, f"seed is {2**63}"),
    ],
)
def test_a_bad_request_names_the_value(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        a_request(**changes)


def test_json_round_trip() -> None:
    request = a_request(prompt='ein "rotes" Haus\n☃', seeds=(0, 2**63 - 1), scheduler="dpm++")
    assert parse(Request, json.dumps(to_plain(request)), "request") == request


def test_bad_json_is_an_input_error() -> None:
    plain = to_plain(a_request())
    for data in (plain | {"seedz": 1}, plain | {"seeds": ["x"]}, plain | {"prompt": None}, "[", 3):
        with pytest.raises(InputError, match="request"):
            parse(Request, data, "request")


def test_the_hash_covers_both_prompts_and_keeps_them_apart() -> None:
    prompts = [("a b", ""), ("a", "b"), ("a", " b"), ("a b", "c")]
    hashes = {a_request(prompt=p, negative_prompt=n).prompt_sha256 for p, n in prompts}
    assert len(hashes) == len(prompts)
    assert a_request().prompt_sha256 == a_request(seeds=(9,), guidance=1.0).prompt_sha256
