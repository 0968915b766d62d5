"""What a caller asks for: one prompt, one or more pictures or clips."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from math import isfinite
from typing import ClassVar

from ecdiff.errors import InputError
from ecdiff.validate import FORBID_UNKNOWN

SCHEDULERS = ("ddim", "euler", "dpm++", "lcm", "dpm")  # each family takes some of them
HANDOFFS = ("renoise", "rescale", "paper")
MAX_SEED = 2**63 - 1
MAX_PICTURES = 256  # of one call; a server may take fewer


@dataclass(frozen=True)
class Request:
    """`seeds` holds one integer a picture; picture j of a call with seed q has seed q + j."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    prompt: str
    height: int  # pixels
    width: int  # pixels
    guidance: float
    seeds: tuple[int, ...]
    negative_prompt: str = ""
    scheduler: str = "ddim"
    frames: int | None = None  # of a clip; None for a picture
    handoff: str = "renoise"  # how latents cross to a model of another scale
    dynamic_guidance: bool = False  # CogVideoX: guidance that grows from step to step

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise InputError("the prompt is empty: say what to draw")
        for name, value in (("height", self.height), ("width", self.width)):
            if value < 8 or value % 8:
                raise InputError(f"{name} is {value}: use 8 or a multiple of it")
        if not (isfinite(self.guidance) and self.guidance >= 0):
            raise InputError(f"guidance is {self.guidance:g}: use a number >= 0 (1 turns it off)")
        if self.scheduler not in SCHEDULERS:
            raise InputError(f"no scheduler {self.scheduler!r}: use one of {', '.join(SCHEDULERS)}")
        if self.handoff not in HANDOFFS:
            raise InputError(f"no handoff {self.handoff!r}: use one of {', '.join(HANDOFFS)}")
        if self.frames is not None and self.frames < 1:
            raise InputError(f"frames is {self.frames}: use at least 1")
        if not self.seeds:
            raise InputError("no seed: ask for at least 1 picture")
        if len(self.seeds) > MAX_PICTURES:
            raise InputError(f"{len(self.seeds)} pictures: ask for at most {MAX_PICTURES} a call")
        for seed in self.seeds:
            if not 0 <= seed <= MAX_SEED:
                raise InputError(f"seed is {seed}: use an integer in 0..2^63-1")

    @property
    def prompt_sha256(self) -> str:
        """Ties a payload to the prompts it was made for."""
        text = json.dumps([self.prompt, self.negative_prompt])
        return hashlib.sha256(text.encode()).hexdigest()
