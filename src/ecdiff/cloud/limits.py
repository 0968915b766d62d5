"""What the server accepts. Each refusal names the value and the limit."""

from __future__ import annotations

from dataclasses import dataclass

from ecdiff.errors import InputError
from ecdiff.handoff import MAX_BYTES
from ecdiff.relay import Job


@dataclass(frozen=True)
class Limits:
    steps: int = 1000
    pixels: int = 2048 * 2048  # of one picture
    frames: int = 81  # of one clip
    pictures: int = 16  # of one request, or clips
    prompt: int = 4000  # characters
    queue: int = 64  # jobs waiting
    payload: int = MAX_BYTES  # bytes of one message

    def check(self, job: Job) -> None:
        """Raises InputError for a job larger than this server takes."""
        r = job.request
        sizes = {
            "steps": (job.plan.steps, self.steps),
            "pixels": (r.height * r.width, self.pixels),
            "frames": (r.frames or 1, self.frames),
            "pictures": (len(r.seeds), self.pictures),
            "prompt characters": (len(r.prompt) + len(r.negative_prompt), self.prompt),
        }
        for name, (value, limit) in sizes.items():
            if value > limit:
                raise InputError(f"{value} {name}: this server takes at most {limit}")
