"""What a pair's TOML file, or the `pair.json` of a folder, may say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from ecdiff.errors import InputError
from ecdiff.plan import PlanDefaults, Site, plan_for
from ecdiff.request import Request
from ecdiff.sources import Side, Source
from ecdiff.validate import FORBID_UNKNOWN

SD_DEFAULTS = PlanDefaults(warmup=7, skip=2, smoothing=0.3, handoff_step=36)  # Table 5: s 34, 37


def _place(name: str, folder: Path) -> str:
    """A folder relative to the pair's file, where there is one, else a hub repository's name."""
    return str((folder / name).resolve()) if (folder / name).is_dir() else name


@dataclass(frozen=True)
class SideEntry:
    """One side in a TOML file: a whole pipeline, and its network's own repository if it has one."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    model: str  # a folder, relative to the file, or a hub repository
    revision: str | None = None
    variant: str | None = None
    network: str | None = None
    network_revision: str | None = None
    network_variant: str | None = None
    vram_gb: float | None = None

    def side(self, folder: Path) -> Side:
        network = None
        if self.network is not None:
            place = _place(self.network, folder)
            network = Source(place, self.network_revision, self.network_variant)
        return Side(Source(_place(self.model, folder), self.revision, self.variant), network)


@dataclass(frozen=True)
class Entry:
    """A pair's TOML file."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    family: Literal["sd", "sdxl", "cogvideox"]
    size: tuple[int, int]  # width, height
    cloud: SideEntry
    edge: SideEntry
    plan: PlanDefaults = SD_DEFAULTS
    guidance: float = 7.5
    licence: str = "unknown"
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    frames: int | None = None  # of a clip
    fps: int = 8
    embeddings: Site = "edge"
    revision: str | None = None  # set it where a side does not have the other's folder

    def __post_init__(self) -> None:
        """Raises InputError for a default that no request or plan could have."""
        width, height = self.size
        Request("a test", height, width, self.guidance, (0,), frames=self.frames)
        plan_for("ec-diff", self.plan.steps, self.plan)
        if not 1 <= self.fps <= 240:
            raise InputError(f"fps is {self.fps}: use 1..240 frames a second")


@dataclass(frozen=True)
class Settings:
    """What an optional `pair.json` beside `cloud/` and `edge/` may say."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    guidance: float = 7.5
    defaults: PlanDefaults = SD_DEFAULTS
    revision: str | None = None  # set it where a side does not have the other's weights
