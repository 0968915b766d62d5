"""The hub's cache as it is after every named pair was downloaded, with tiny weights.

Laid out as the real repositories are: their file names, `variant="fp16"` beside the plain weights
or alone, sharded weights with their index, a repository that holds only a U-Net, and
configurations of before some keys existed.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from conftest import make_pair
from safetensors.torch import load_file, save_file
from tiny import make_cogvideox_pair, make_sdxl_pair

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SHARDED = {"text_encoder": "model", "transformer": "diffusion_pytorch_model"}


def make_hub(cache: Path, workshop: Path) -> Path:
    """Write `models--ORG--NAME/{refs/main,snapshots/COMMIT}` for each repository under `cache`."""
    sd = make_pair(workshop / "sd")
    _forget(sd / "cloud" / "vae" / "config.json", "scaling_factor")
    _add(cache, "CompVis/stable-diffusion-v1-4", sd / "cloud", variant="fp16")
    _edit(sd / "cloud" / "vae" / "config.json", scaling_factor=0.18215)
    for name in ("bk-sdm-small", "bk-sdm-tiny"):
        repo = _add(cache, f"nota-ai/{name}", sd / "cloud")
        shutil.rmtree(repo / "unet")
        shutil.copytree(sd / "edge" / "unet", repo / "unet")
    shutil.copytree(sd / "edge" / "unet", workshop / "pruned" / "unet")
    _add(cache, "cqyan/hybrid-sd-224m", workshop / "pruned")

    sdxl = make_sdxl_pair(workshop / "sdxl")
    _add(cache, "stabilityai/stable-diffusion-xl-base-1.0", sdxl / "cloud", variant="fp16")
    _edit(sdxl / "edge" / "scheduler" / "scheduler_config.json", rescale_betas_zero_snr=False)
    for name in ("SSD-1B", "Segmind-Vega"):
        _add(cache, f"segmind/{name}", sdxl / "edge", variant="fp16")

    video = make_cogvideox_pair(workshop / "video")
    for side, name, sharded in (
        ("cloud", "CogVideoX-5b", ("text_encoder", "transformer")),
        ("edge", "CogVideoX-2b", ("text_encoder",)),
    ):
        repo = _add(cache, f"zai-org/{name}", video / side)
        for part in sharded:
            _shard(repo / part, SHARDED[part])
    return cache


def snapshot(cache: Path, repo: str) -> Path:
    return cache / f"models--{repo.replace('/', '--')}" / "snapshots" / COMMIT


def _add(cache: Path, repo: str, pipeline: Path, variant: str | None = None) -> Path:
    """With `variant`, as the hub often has it: both kinds of weights; the plain ones are broken
    here, so that no test can pass with them."""
    place = snapshot(cache, repo)
    shutil.copytree(pipeline, place)
    refs = place.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text(COMMIT)
    if variant is not None:
        for weights in list(place.rglob("*.safetensors")):
            shutil.copy(weights, weights.with_suffix(f".{variant}.safetensors"))
            weights.write_bytes(b"not these")
    return place


def _shard(folder: Path, stem: str) -> None:
    """The weights in two files, and the index that says which has what."""
    weights = load_file(folder / f"{stem}.safetensors")
    names = sorted(weights)
    half = len(names) // 2
    index: dict[str, str] = {}
    for number, part in ((1, names[:half]), (2, names[half:])):
        file = f"{stem}-{number:05d}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / file, {"format": "pt"})
        index |= dict.fromkeys(part, file)
    size = sum(tensor.nbytes for tensor in weights.values())
    content = {"metadata": {"total_size": size}, "weight_map": index}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(content))
    (folder / f"{stem}.safetensors").unlink()


def _edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def _forget(file: Path, *keys: str) -> None:
    kept = {key: value for key, value in json.loads(file.read_text()).items() if key not in keys}
    file.write_text(json.dumps(kept))
