"""The figures that the evaluations of the reference pairs put together, and their command."""

from __future__ import annotations

import json
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from ecdiff.drawer import Drawer
from ecdiff.measure import Families, batches
from ecdiff.pairs import Pair
from ecdiff.plan import Plan
from ecdiff.quality import detail, psnr, ssim
from ecdiff.reference.canvas import SIDE
from ecdiff.reference.classifier import UNSAID, Classifier, correct
from ecdiff.reference.data import token_ids
from ecdiff.reference.models import new_scheduler
from ecdiff.reference.scenes import Scene, caption
from ecdiff.request import Request

BATCH = 32
ERROR_SCENES = 100
RESAMPLES = 1000


def pictures(
    families: Families, scenes: Sequence[Scene], plans: dict[str, Plan], guidance: float
) -> dict[str, Tensor]:
    """Pictures [B, 3, 128, 128] in [0, 1] by plan, of the scenes' plain captions."""
    count = len(scenes) // 2
    requests = [
        Request(caption(scene), SIDE, SIDE, guidance, (i % count,))
        for i, scene in enumerate(scenes)
    ]
    parts: dict[str, list[Tensor]] = {name: [] for name in plans}
    for part in batches(requests, BATCH):
        drawer = Drawer(families, part, plans.values())
        for name, plan in plans.items():
            parts[name].append(drawer.pictures(plan))
    return {name: torch.cat(drawn) for name, drawn in parts.items()}


def adherence(
    judge: Classifier, x: Tensor, one: list[Scene], two: list[Scene]
) -> dict[str, dict[str, Any]]:
    """Percentages right of pictures `x` in [-1, 1], first those of `one`, then those of `two`."""
    a, b = correct(judge, x[: len(one)], one), correct(judge, x[len(one) :], two)
    said = torch.tensor([scene.things[0].size != UNSAID for scene in one])
    objects = b["first_object"] & b["second_object"]
    colours = b["first_colour"] & b["second_colour"]
    parts = {
        "object": a["first_object"],
        "colour": a["first_colour"],
        "background": a["background"],
        "size, where said": a["first_size"][said],
        "two: objects": objects,
        "two: colours": colours,
        "two: relation": b["arrangement"],
        "two: all three": objects & colours & b["arrangement"],
        "two: background": b["background"],
        "two: the whole prompt": objects & colours & b["arrangement"] & b["background"],
    }
    return {name: estimate(100 * part.float()) for name, part in parts.items()}


def late(drawn: dict[str, Tensor]) -> dict[str, Any]:
    """How near `drawn["finish"]`, at the edge, and `drawn["coast"]` are to `drawn["cloud"]`."""
    cloud = drawn["cloud"]
    found: dict[str, Any] = {
        name: {
            "psnr_db": estimate(psnr(drawn[name], cloud)),
            "detail": estimate(detail(drawn[name], cloud)),
        }
        for name in ("finish", "coast")
    }
    gain = psnr(drawn["finish"], cloud) - psnr(drawn["coast"], cloud)
    return found | {"gain_db": estimate(gain)}


def estimate(values: Tensor) -> dict[str, Any]:
    """The mean of values [B] and its 95 % interval, by bootstrap over the prompts."""
    g = torch.Generator().manual_seed(0)
    means = values[torch.randint(len(values), (RESAMPLES, len(values)), generator=g)].mean(1)
    low, high = means.float().quantile(torch.tensor([0.025, 0.975])).tolist()
    return {"mean": float(values.mean()), "interval": [low, high]}


@torch.no_grad()
def noise_error(pipe: StableDiffusionPipeline, x: Tensor, scenes: list[Scene]) -> float:
    """Mean squared error of the predicted noise on the scenes' pictures x [B, 3, 128, 128].

    Without guidance; timesteps are spread evenly over 0..999 and the noise is seeded: the same for
    both sites.
    """
    g = torch.Generator().manual_seed(0)
    scenes = scenes[:ERROR_SCENES]
    x0 = pipe.vae.encode(x[: len(scenes)]).latent_dist.mean * pipe.vae.config.scaling_factor
    t = ((torch.arange(len(x0)) + 0.5) * 1000 / len(x0)).long()
    t = t[torch.randperm(len(t), generator=g)]
    noise = torch.randn(x0.shape, generator=g)
    x_t = new_scheduler().add_noise(x0, noise, t)
    ids = token_ids(pipe.tokenizer, [caption(scene) for scene in scenes])
    predicted = pipe.unet(x_t, t, pipe.text_encoder(ids).last_hidden_state).sample
    return float((predicted - noise).square().mean())


@torch.no_grad()
def autoencoder_quality(pipe: StableDiffusionPipeline, x: Tensor) -> dict[str, Any]:
    """PSNR (dB) and SSIM of held-out scenes [B, 3, 128, 128] after encoding and decoding."""
    parts = [
        pipe.vae.decode(pipe.vae.encode(p).latent_dist.mean).sample for p in torch.split(x, BATCH)
    ]
    y = torch.cat(parts).clamp(-1, 1)
    a, b = (x + 1) / 2, (y + 1) / 2
    return {"vae_psnr_db": estimate(psnr(a, b)), "vae_ssim": estimate(ssim(a, b))}


def step_figures(times: Mapping[str, float]) -> dict[str, float]:
    """Milliseconds of a guided step of each site, and the edge's over the cloud's."""
    figures = {f"{site}_ms": 1000 * times[site] for site in ("cloud", "edge")}
    return figures | {"step_ratio": times["edge"] / times["cloud"]}


def megabytes(weights: Path) -> float:
    """The size of all files of a pair."""
    return sum(f.stat().st_size for f in weights.rglob("*") if f.is_file()) / 1e6


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text}: say 1 or more")
    return int(text)


def _folder(text: str) -> Path:
    path = Path(text)
    if not (path / "cloud" / "model_index.json").is_file():
        raise ArgumentTypeError(f"{text} holds no trained pair: name the folder above cloud/")
    return path


def arguments(
    module: str, about: str | None, pair: Pair, weights: Path, sheet: tuple[str, str]
) -> ArgumentParser:
    """The options of both evaluations: `weights` is the pair's folder, `sheet` a flag and help."""
    parser = ArgumentParser(prog=f"python -m {module}", description=about)
    parser.add_argument("--json", action="store_true", help="print the JSON line alone")
    parser.add_argument(
        "--prompts", type=_positive, default=256, help="held-out prompts (of each kind)"
    )
    parser.add_argument("--guidance", type=float, default=pair.guidance)
    parser.add_argument("--weights", type=_folder, default=weights, help="the pair's folder")
    flag, text = sheet
    parser.add_argument(flag, type=Path, dest="sheet", metavar="FILE", help=text)
    return parser


def report(
    args: Namespace,
    evaluate: Callable[[Path, int, float, Path | None], dict[str, Any]],
    print_tables: Callable[[dict[str, Any]], None],
) -> None:
    """Measure what `arguments` read, and print tables and a line of JSON."""
    result = evaluate(args.weights, args.prompts, args.guidance, args.sheet)
    if not args.json:
        print_tables(result)
    print(json.dumps(result))


def with_judge(weights: Path, shipped: Path) -> Path:
    """`weights`, or `shipped` where a training run has left no classifier of its own."""
    return weights if (weights / "classifier").is_dir() else shipped


def bar(name: str, value: float, sign: str, wanted: float) -> dict[str, Any]:
    """A figure that must be `sign` (">=" or "<=") `wanted`, and whether it is."""
    holds = value >= wanted if sign == ">=" else value <= wanted
    return {"name": name, "value": value, "wanted": f"{sign} {wanted:g}", "holds": holds}


def print_bars(bars: Sequence[dict[str, Any]]) -> None:
    """The bars as a Markdown table."""
    print("\n| bar | value | wanted | |\n| --- | ---: | --- | --- |")
    for each in bars:
        verdict = "holds" if each["holds"] else "**missed**"
        print(f"| {each['name']} | {each['value']:.2f} | {each['wanted']} | {verdict} |")


def shown(part: dict[str, Any]) -> str:
    """An estimate with its interval."""
    low, high = part["interval"]
    return f"{part['mean']:.1f} ({low:.1f} to {high:.1f})"


def rounded(value: Any) -> Any:
    """All floats of nested dicts and lists to three digits."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return round(value, 3) if isinstance(value, float) else value
