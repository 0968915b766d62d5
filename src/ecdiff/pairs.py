"""Pairs of models: named ones, a folder's or a TOML file's. No torch at import.

A pair is described by one TOML file (`named/*.toml` are ours) or one folder. Both sides must have
the same fingerprint, which is made of small configuration files and never of weights.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecdiff.errors import InputError, PairError
from ecdiff.pairfile import Entry, Settings
from ecdiff.plan import PlanDefaults, Site
from ecdiff.sources import NO_LIMIT, Memory, Side, Source, read_json
from ecdiff.validate import parse

if TYPE_CHECKING:
    import torch

    from ecdiff.families.conversion import Conversion
    from ecdiff.trajectory import Family

DTYPES = ("float32", "float16", "bfloat16")
FAMILIES = {"sd": "unet", "sdxl": "unet", "cogvideox": "transformer"}  # and its network's folder
TEXT_WIDTH = {  # what the network's configuration calls it
    "sd": "cross_attention_dim",
    "sdxl": "cross_attention_dim",
    "cogvideox": "text_embed_dim",
}
UNSAID_SCALING = {"sd": 0.18215, "sdxl": 0.18215, "cogvideox": 1.15258426}  # as diffusers reads it
UNSAID_SCHEDULE = {"rescale_betas_zero_snr": False, "snr_shift_scale": 1.0}
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
SCALE_FACTS = (  # where they differ, the same latents mean something else
    "vae_scaling",
    "beta_schedule",
    "beta_start",
    "beta_end",
    "num_train_timesteps",
    "rescale_betas_zero_snr",
    "snr_shift_scale",
)
NAMED = Path(__file__).parent / "named"


@dataclass(frozen=True)
class Pair:
    """A cloud and an edge model that share a latent space, and how to use them together."""

    name: str
    family: str
    cloud: Side
    edge: Side
    revision: str  # stands for the weights of both sides
    defaults: PlanDefaults
    guidance: float
    height: int  # pixels
    width: int  # pixels
    licence: str
    frames: int | None = None  # of a clip; None for pictures
    fps: int = 8
    embeddings: Site = "edge"  # who encodes the prompt for the edge; the cloud's travel to it
    dtype: str | None = None  # on a GPU; None is float16
    vram_gb: dict[str, float] = field(default_factory=dict)  # by site, an estimate

    def side(self, site: Site) -> Side:
        return self.cloud if site == "cloud" else self.edge


def names() -> list[str]:
    return sorted((path.stem for path in NAMED.glob("*.toml")), key=lambda n: (n != "reference", n))


def resolve(name: str) -> Pair:
    """The pair of that name, or in the TOML file or folder of that name. Raises InputError."""
    if name in names():
        return file_pair(NAMED / f"{name}.toml")
    place = Path(name)
    if place.suffix == ".toml":
        if not place.is_file():
            raise InputError(f"no pair file {name}: write one as docs/pairs.md shows")
        return file_pair(place)
    if (place / "pair.toml").is_file():
        return replace(file_pair(place / "pair.toml"), name=place.resolve().name)
    if place.is_dir():
        return folder_pair(place.resolve().name, place)
    raise InputError(
        f"no pair {name!r}: use one of {', '.join(names())}, a .toml file, "
        "or a folder that holds pair.toml, or cloud/ and edge/"
    )


def file_pair(file: Path) -> Pair:
    """The pair that a TOML file describes. Raises PairError."""
    try:
        entry = parse(Entry, tomllib.loads(file.read_text()), file.name)
    except (OSError, ValueError, InputError) as error:
        raise PairError(f"cannot read pair {file}: {error}") from error
    cloud, edge = entry.cloud.side(file.parent), entry.edge.side(file.parent)
    vram = {"cloud": entry.cloud.vram_gb, "edge": entry.edge.vram_gb}
    return Pair(
        file.stem,
        entry.family,
        cloud,
        edge,
        entry.revision or _revision(cloud, edge),
        entry.plan,
        entry.guidance,
        height=entry.size[1],
        width=entry.size[0],
        licence=entry.licence,
        frames=entry.frames,
        fps=entry.fps,
        embeddings=entry.embeddings,
        dtype=entry.dtype,
        vram_gb={site: gb for site, gb in vram.items() if gb is not None},
    )


def folder_pair(name: str, folder: Path, licence: str = "unknown") -> Pair:
    """A pair of family `sd` in one folder: `cloud/`, a whole pipeline, and `edge/unet/`.

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
    sides = Side(Source(str(cloud))), Side(Source(str(cloud)), Source(str(edge)))
    unet = read_json(sides[0].model, "unet/config.json")
    factor = vae_factor(read_json(sides[0].model, "vae/config.json"))
    family = "sdxl" if unet.get("addition_embed_type") == "text_time" else "sd"
    return Pair(
        name,
        family,
        *sides,
        settings.revision or _revision(*sides),
        settings.defaults,
        settings.guidance,
        height=unet["sample_size"] * factor,
        width=unet["sample_size"] * factor,
        licence=licence,
    )


def _revision(cloud: Side, edge: Side) -> str:
    """Stands for the weights: hub revisions, and of folders the files' names, sizes and ends."""
    digest = hashlib.sha256()
    for site, side in (("cloud", cloud), ("edge", edge)):
        for source in (side.model, side.network):
            if source is None:
                continue
            if not source.is_folder:
                digest.update(f"{site} {source.repo}@{source.revision or 'main'}\n".encode())
                continue
            folder = Path(source.repo)
            for path in sorted(folder.rglob("*.safetensors")):
                size = path.stat().st_size
                digest.update(f"{site} {path.relative_to(folder).as_posix()} {size}\n".encode())
                with path.open("rb") as file:
                    digest.update(file.read(2**20))
                    file.seek(max(0, size - 2**20))
                    digest.update(file.read())
    return digest.hexdigest()[:16]


def vae_factor(vae: dict[str, Any]) -> int:
    """Pixels per latent, along one side."""
    return int(2 ** (len(vae["block_out_channels"]) - 1))


def facts(pair: Pair, site: Site, local_only: bool = False) -> dict[str, Any]:
    """What must be known of one side to trust its latents, from its configuration files.

    Raises PairError where they cannot be read.
    """
    side, folder = pair.side(site), FAMILIES[pair.family]
    network = read_json(side.network or side.model, f"{folder}/config.json", local_only)
    vae = read_json(side.model, "vae/config.json", local_only)
    scheduler = read_json(side.model, "scheduler/scheduler_config.json", local_only)
    try:
        return {
            "revision": pair.revision,
            "latent_channels": network["in_channels"],
            "vae_factor": vae_factor(vae),
            "vae_scaling": vae.get("scaling_factor", UNSAID_SCALING[pair.family]),
            "text_width": network[TEXT_WIDTH[pair.family]],
            **{n: scheduler.get(n, UNSAID_SCHEDULE.get(n)) for n in SCHEDULE_FACTS},
        }
    except KeyError as error:
        raise PairError(
            f"{side.network or side.model} is not of family {pair.family}: "
            f"its configuration has no {error.args[0]}"
        ) from error


def both_facts(pair: Pair, local_only: bool = False) -> dict[Site, dict[str, Any]]:
    """Raises PairError for two models that do not share a latent space."""
    both: dict[Site, dict[str, Any]] = {
        "cloud": facts(pair, "cloud", local_only),
        "edge": facts(pair, "edge", local_only),
    }
    for name in ("latent_channels", "vae_factor", "text_width"):
        cloud, edge = both["cloud"][name], both["edge"][name]
        if cloud != edge:
            raise PairError(
                f"{pair.name} is not a pair: {name} is {cloud} in the cloud and {edge} at the edge"
            )
    return both


def fingerprint(pair: Pair) -> str:
    """SHA-256 of the canonical JSON of both sides' facts. Says nothing of name or place."""
    return _hash(both_facts(pair))


def _hash(both: dict[Site, dict[str, Any]]) -> str:
    canonical = json.dumps(both, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def describe(pair: Pair, local_only: bool = False) -> dict[str, Any]:
    """The entry as `ecdiff pairs --json` and `GET /v1/pairs` show it.

    With `local_only`, the facts of models that are not on this machine are null.
    """
    both: dict[Site, dict[str, Any]] | None = None
    try:
        both = both_facts(pair, local_only)
    except PairError:
        if not local_only:
            raise
    return {
        "name": pair.name,
        "family": pair.family,
        "fingerprint": None if both is None else _hash(both),
        "guidance": pair.guidance,
        "height": pair.height,
        "width": pair.width,
        "frames": pair.frames,
        "fps": pair.fps,
        "licence": pair.licence,
        "dtype": pair.dtype,
        "vram_gb": pair.vram_gb,
        "embeddings": pair.embeddings,
        "defaults": asdict(pair.defaults),
        "cloud": None if both is None else both["cloud"],
        "edge": None if both is None else both["edge"],
        "sources": {site: _sources(pair.side(site)) for site in ("cloud", "edge")},
    }


def _sources(side: Side) -> dict[str, str]:
    named = {"model": side.model, "network": side.network}
    return {name: str(source) for name, source in named.items() if source is not None}


def load(
    pair: Pair,
    site: Site,
    device: torch.device,
    dtype: torch.dtype,
    memory: Memory = NO_LIMIT,
) -> Family:
    """Load one side's own parts; the rest when first used. Raises PairError, InputError."""
    from importlib import import_module

    from ecdiff.families.loading import Loader

    if site == "cloud":
        needs = {"text"}
    else:
        needs = {"vae", "text"} if pair.embeddings == "edge" else {"vae"}
    family = import_module(f"ecdiff.families.{pair.family}")
    loaded: Family = family.load(Loader(pair.side(site), device, dtype, memory), frozenset(needs))
    return loaded


def conversion(pair: Pair, site: Site) -> Conversion | None:
    """How latents that leave `site` become the other side's; None where both have one scale."""
    from ecdiff.families.conversion import Conversion

    other: Site = "edge" if site == "cloud" else "cloud"
    both = both_facts(pair)
    if all(both[site][name] == both[other][name] for name in SCALE_FACTS):
        return None
    config = read_json(pair.side(other).model, "scheduler/scheduler_config.json")
    return Conversion(pair.family, config, both[other]["vae_scaling"] / both[site]["vae_scaling"])


def check_pictures(pair: Pair) -> None:
    """Raises InputError for a pair of clips, which the search and its benchmarks do not measure."""
    if pair.frames is not None:
        raise InputError(f"pair {pair.name} draws clips: this measures pairs of pictures")


def place(
    device: str | None = None, dtype: str | None = None, pair: Pair | None = None
) -> tuple[torch.device, torch.dtype]:
    """The device and dtype of those names; by default a GPU in the pair's dtype, else the CPU
    in float32.

    Raises InputError for a name torch does not know or a device that is not there.
    """
    import torch

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        where = torch.device(device)
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]
        if "device type" in reason:  # torch lists every one it was ever built for
            reason = "torch knows no such device: use cpu, cuda, cuda:1, mps or xpu"
        raise InputError(f"device {device!r} cannot be used: {reason}") from error
    if dtype is None:
        on_gpu = (pair.dtype if pair else None) or "float16"
        dtype = "float32" if where.type == "cpu" else on_gpu
    check_dtype(dtype)
    return where, getattr(torch, dtype)


def check_dtype(dtype: str | None) -> None:
    """Raises InputError for a name that is none of ours. None is the device's own choice."""
    if dtype not in (None, *DTYPES):
        raise InputError(f"no dtype {dtype!r}: use one of {', '.join(DTYPES)}")
