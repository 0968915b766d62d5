"""The named pairs of models, and the fingerprint both sides must share. No torch at import."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ecdiff.errors import InputError, PairError
from ecdiff.plan import PlanDefaults, Site
from ecdiff.validate import FORBID_UNKNOWN, parse

if TYPE_CHECKING:
    import torch

    from ecdiff.trajectory import Family

DTYPES = ("float32", "float16", "bfloat16")
SCHEDULE_FACTS = (
    "prediction_type",
    "beta_schedule",
    "beta_start",
    "beta_end",
    "num_train_timesteps",
    "timestep_spacing",
    "steps_offset",
    "rescale_betas_zero_snr",
    "snr_shift_scale",
)
SD_DEFAULTS = PlanDefaults(warmup=7, skip=2, smoothing=0.3, handoff_step=36)  # Table 5: s 34, 37
REFERENCE = Path(__file__).parent / "reference" / "weights"


@dataclass(frozen=True)
class Side:
    """Where one model's parts are. `unet` is set when only the U-Net is its own."""

    model: str  # a StableDiffusionPipeline folder
    unet: str | None = None  # a folder that holds unet/


@dataclass(frozen=True)
class Pair:
    """A cloud and an edge model that share a latent space, and how to use them together."""

    name: str
    cloud: Side
    edge: Side
    revision: str
    defaults: PlanDefaults
    guidance: float
    height: int  # pixels
    width: int  # pixels
    licence: str

    def side(self, site: Site) -> Side:
        return self.cloud if site == "cloud" else self.edge


@dataclass(frozen=True)
class Settings:
    """What an optional `pair.json` beside `cloud/` and `edge/` may say."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    guidance: float = 7.5
    defaults: PlanDefaults = SD_DEFAULTS
    revision: str | None = None  # set it where a side does not have the other's weights


def folder_pair(name: str, folder: Path, licence: str = "unknown") -> Pair:
    """A pair in one folder: `cloud/`, a whole pipeline, and `edge/unet/`.

    Raises PairError when the folder is not laid out like that.
    """
    cloud, edge = folder / "cloud", folder / "edge"
    for part in (cloud / "model_index.json", edge / "unet" / "config.json"):
        if not part.is_file():
            raise PairError(f"{folder} is not a pair: {part.relative_to(folder)} is missing")
    settings = Settings()
    if (folder / "pair.json").is_file():
        try:
            settings = parse(Settings, (folder / "pair.json").read_bytes(), "pair.json")
        except InputError as error:
            raise PairError(f"{folder}: {error}") from error
    unet = _read(cloud / "unet" / "config.json")
    side = unet["sample_size"] * _vae_factor(_read(cloud / "vae" / "config.json"))
    return Pair(
        name,
        Side(str(cloud)),
        Side(str(cloud), unet=str(edge)),
        settings.revision or _revision(cloud, edge),
        settings.defaults,
        settings.guidance,
        height=side,
        width=side,
        licence=licence,
    )


def _revision(*folders: Path) -> str:
    """Stands for the weight files: their names and sizes, and the first and last MiB of each."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*.safetensors")):
            size = path.stat().st_size
            digest.update(f"{folder.name}/{path.relative_to(folder).as_posix()} {size}\n".encode())
            with path.open("rb") as file:
                digest.update(file.read(2**20))
                file.seek(max(0, size - 2**20))
                digest.update(file.read())
    return digest.hexdigest()[:16]


def _vae_factor(vae: dict[str, Any]) -> int:
    """Pixels per latent, along one side."""
    return int(2 ** (len(vae["block_out_channels"]) - 1))


def names() -> list[str]:
    return ["reference"]


def resolve(name: str) -> Pair:
    """The pair of that name, or the pair in the folder of that name. Raises InputError."""
    if name == "reference":
        return folder_pair("reference", REFERENCE, "Apache-2.0")
    folder = Path(name)
    if folder.is_dir():
        return folder_pair(folder.resolve().name, folder)
    raise InputError(
        f"no pair {name!r}: use one of {', '.join(names())}, "
        "or a folder that holds cloud/ and edge/"
    )


def facts(pair: Pair, site: Site) -> dict[str, Any]:
    """What must be known of one side to trust its latents, from its configuration files."""
    side = pair.side(site)
    model = Path(side.model)
    unet = _read(Path(side.unet or side.model) / "unet" / "config.json")
    vae = _read(model / "vae" / "config.json")
    scheduler = _read(model / "scheduler" / "scheduler_config.json")
    return {
        "revision": pair.revision,
        "latent_channels": unet["in_channels"],
        "vae_factor": _vae_factor(vae),
        "vae_scaling": vae.get("scaling_factor"),
        "text_width": unet["cross_attention_dim"],
        **{name: scheduler.get(name) for name in SCHEDULE_FACTS},
    }


def fingerprint(pair: Pair) -> str:
    """SHA-256 of the canonical JSON of both sides' facts. Says nothing of name or place."""
    both = {"cloud": facts(pair, "cloud"), "edge": facts(pair, "edge")}
    canonical = json.dumps(both, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def describe(pair: Pair) -> dict[str, Any]:
    """The entry as `ecdiff pairs --json` and `GET /v1/pairs` show it."""
    return {
        "name": pair.name,
        "fingerprint": fingerprint(pair),
        "guidance": pair.guidance,
        "height": pair.height,
        "width": pair.width,
        "licence": pair.licence,
        "defaults": asdict(pair.defaults),
        "cloud": facts(pair, "cloud"),
        "edge": facts(pair, "edge"),
    }


def load(pair: Pair, site: Site, device: torch.device, dtype: torch.dtype) -> Family:
    """Load one side's model. Raises PairError."""
    from ecdiff.families import sd

    side = pair.side(site)
    return sd.load(side.model, side.unet, device, dtype)


def place(device: str | None = None, dtype: str | None = None) -> tuple[torch.device, torch.dtype]:
    """The device and dtype of those names; by default a GPU in float16, else the CPU in float32.

    Raises InputError for a name torch does not know or a device that is not there.
    """
    import torch

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        where = torch.device(device)
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {device!r} cannot be used: {reason}") from error
    if dtype is None:
        dtype = "float32" if where.type == "cpu" else "float16"
    check_dtype(dtype)
    return where, getattr(torch, dtype)


def check_dtype(dtype: str | None) -> None:
    """Raises InputError for a name that is none of ours. None is the device's own choice."""
    if dtype not in (None, *DTYPES):
        raise InputError(f"no dtype {dtype!r}: use one of {', '.join(DTYPES)}")


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise PairError(f"cannot read {path}: {error}") from error
    return content
