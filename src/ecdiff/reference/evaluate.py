"""Measure the reference pair: `python -m ecdiff.reference.evaluate [--json]`.

Claim: the cloud model draws held-out prompts as told, the edge model predicts noise less well in at
most half the time a step, and the autoencoder keeps 28 dB. Prints a table, then a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from ecdiff.quality import psnr, ssim
from ecdiff.reference.classifier import HEADS, Classifier, correct, load_classifier
from ecdiff.reference.data import picture_batch, save_grid, token_ids
from ecdiff.reference.models import WEIGHTS, load_pipeline, new_scheduler
from ecdiff.reference.scenes import Scene, caption, held_out_scenes
from ecdiff.reference.train_pair import GUIDANCE

STEPS = 50
BATCH = 20
ERROR_SCENES = 100
SITES = ("cloud", "edge")
BARS = {  # name: (figure, site or None, at least / at most, wanted)
    "autoencoder PSNR, dB": ("psnr_db", None, ">=", 28.0),
    "cloud colour, %": ("colour", "cloud", ">=", 80.0),
    "cloud background, %": ("background", "cloud", ">=", 80.0),
    "cloud object, %": ("object", "cloud", ">=", 60.0),
    "edge noise error over cloud noise error": ("noise_error_ratio", None, ">=", 1.03),
    "edge step over cloud step, batch 1": ("step_ratio_batch_1", None, "<=", 0.5),
    "edge step over cloud step, batch 2": ("step_ratio_batch_2", None, "<=", 0.5),
}


def evaluate(weights: Path, prompts: int, guidance: float, grid: Path | None) -> dict[str, Any]:
    """All figures of the pair in `weights`, judged by the shipped classifier, JSON-able."""
    one, two = held_out_scenes(prompts), held_out_scenes(max(prompts // 4, 1), things=2)
    judge = load_classifier()
    pipes = {site: load_pipeline(weights, site) for site in SITES}
    result: dict[str, Any] = {
        "guidance": guidance,
        "steps": STEPS,
        "scheduler": "DDIM",
        "prompts_one_object": len(one),
        "prompts_two_objects": len(two),
        "seeds": "0 to prompts - 1, the same for both sites",
        "threads": torch.get_num_threads(),
    }
    truth = {n: picture_batch(scenes) for n, scenes in (("one", one), ("two", two))}
    result["classifier_on_renders"] = adherence(judge, truth["one"], one, truth["two"], two)
    result |= autoencoder_quality(pipes["cloud"], truth["one"])
    result |= step_times({site: pipe.unet for site, pipe in pipes.items()})
    rows = [truth["one"][:10]]
    for site, pipe in pipes.items():
        began = time.perf_counter()
        x, y = draw(pipe, one, guidance), draw(pipe, two, guidance)
        result[site] = adherence(judge, x, one, y, two)
        result[site]["noise_error"] = noise_error(pipe, truth["one"], one)
        result[site]["seconds_per_picture"] = (time.perf_counter() - began) / (len(x) + len(y))
        rows.append(x[:10])
    if grid:
        save_grid(torch.cat(rows), grid, columns=len(rows[0]))
    result["noise_error_ratio"] = result["edge"]["noise_error"] / result["cloud"]["noise_error"]
    result["bars"] = [_bar(result, name, *bar) for name, bar in BARS.items()]
    rounded: dict[str, Any] = _rounded(result)
    return rounded


@torch.no_grad()
def draw(pipe: StableDiffusionPipeline, scenes: list[Scene], guidance: float) -> torch.Tensor:
    """Pictures [B, 3, 128, 128] in [-1, 1] for the scenes' plain captions, seeds 0, 1, 2, ..."""
    parts = []
    for start in range(0, len(scenes), BATCH):
        part = scenes[start : start + BATCH]
        images = pipe(
            [caption(scene) for scene in part],
            num_inference_steps=STEPS,
            guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(start + i) for i in range(len(part))],
            output_type="pt",
        ).images
        parts.append(images * 2 - 1)
    return torch.cat(parts)


def adherence(
    judge: Classifier, x: torch.Tensor, one: list[Scene], y: torch.Tensor, two: list[Scene]
) -> dict[str, float]:
    """Percentages right: of one-object pictures `x`, and (`two_...`) of two-object pictures `y`."""
    a, b = correct(judge, x, one), correct(judge, y, two)
    thing = a["first_object"] & a["first_colour"] & a["background"]
    parts = {
        "object": a["first_object"],
        "colour": a["first_colour"],
        "background": a["background"],
        "all_three": thing,
        "two_objects": b["first_object"] & b["second_object"],
        "two_colours": b["first_colour"] & b["second_colour"],
        "two_arrangement": b["arrangement"],
        "two_background": b["background"],
        "two_everything": torch.stack([b[h] for h in HEADS]).all(0),
    }
    return {name: 100 * float(part.float().mean()) for name, part in parts.items()}


@torch.no_grad()
def noise_error(pipe: StableDiffusionPipeline, x: torch.Tensor, scenes: list[Scene]) -> float:
    """Mean squared error of the predicted noise on pictures x [B, 3, 128, 128], no guidance.

    Timesteps are spread evenly over 0..999 and the noise is seeded: the same for both sites.
    """
    g = torch.Generator().manual_seed(0)
    x0 = pipe.vae.encode(x[:ERROR_SCENES]).latent_dist.mean * pipe.vae.config.scaling_factor
    t = ((torch.arange(len(x0)) + 0.5) * 1000 / len(x0)).long()
    t = t[torch.randperm(len(t), generator=g)]
    noise = torch.randn(x0.shape, generator=g)
    x_t = new_scheduler().add_noise(x0, noise, t)
    ids = token_ids(pipe.tokenizer, [caption(scene) for scene in scenes[: len(x0)]])
    predicted = pipe.unet(x_t, t, pipe.text_encoder(ids).last_hidden_state).sample
    return float((predicted - noise).square().mean())


@torch.no_grad()
def autoencoder_quality(pipe: StableDiffusionPipeline, x: torch.Tensor) -> dict[str, float]:
    """PSNR (dB) and SSIM of held-out scenes [B, 3, 128, 128] after encoding and decoding."""
    parts = [
        pipe.vae.decode(pipe.vae.encode(p).latent_dist.mean).sample for p in torch.split(x, BATCH)
    ]
    y = torch.cat(parts).clamp(-1, 1)
    a, b = (x + 1) / 2, (y + 1) / 2
    return {"psnr_db": float(psnr(a, b).mean()), "ssim": float(ssim(a, b).mean())}


@torch.no_grad()
def step_times(unets: dict[str, UNet2DConditionModel], repeats: int = 41) -> dict[str, float]:
    """Median milliseconds of one call, the two networks taking turns, and edge over cloud."""
    figures: dict[str, float] = {}
    for batch in (1, 2):
        seconds: dict[str, list[float]] = {site: [] for site in unets}
        for _ in range(repeats):
            for site, unet in unets.items():
                c = unet.config
                x = torch.randn(batch, c.in_channels, c.sample_size, c.sample_size)
                text = torch.randn(batch, 32, c.cross_attention_dim)
                began = time.perf_counter()
                unet(x, 500, text)
                seconds[site].append(time.perf_counter() - began)
        median = {site: 1000 * statistics.median(s) for site, s in seconds.items()}
        figures |= {f"{site}_step_ms_batch_{batch}": ms for site, ms in median.items()}
        figures[f"step_ratio_batch_{batch}"] = median["edge"] / median["cloud"]
    return figures


def _bar(
    result: dict[str, Any], name: str, figure: str, site: str | None, sign: str, wanted: float
) -> dict[str, Any]:
    value = result[site][figure] if site else result[figure]
    holds = value >= wanted if sign == ">=" else value <= wanted
    return {"name": name, "value": value, "wanted": f"{sign} {wanted:g}", "holds": holds}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return round(value, 3) if isinstance(value, float) else value


def print_table(result: dict[str, Any]) -> None:
    """The figures for people."""
    rows = {"renders": result["classifier_on_renders"]} | {s: result[s] for s in SITES}
    print(f"{'% right':<18}" + "".join(f"{name:>10}" for name in rows))
    for key in result["classifier_on_renders"]:
        print(f"{key:<18}" + "".join(f"{row[key]:>10.1f}" for row in rows.values()))
    errors = "".join(f"{result[site]['noise_error']:>10.4f}" for site in SITES)
    print(f"{'noise error':<18}{'':>10}{errors}")
    print(f"\n{'bar':<44}{'value':>9}  wanted")
    for bar in result["bars"]:
        verdict = "holds" if bar["holds"] else "MISSED"
        print(f"{bar['name']:<44}{bar['value']:>9.2f}  {bar['wanted']:<8}{verdict}")


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m ecdiff.reference.evaluate", description=__doc__
    )
    parser.add_argument("--json", action="store_true", help="print the JSON line alone")
    parser.add_argument("--prompts", type=int, default=200, help="one-object prompts")
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="the pair's folder")
    parser.add_argument("--grid", type=Path, help="write a picture grid: truth, cloud, edge")
    args = parser.parse_args()
    result = evaluate(args.weights, args.prompts, args.guidance, args.grid)
    if not args.json:
        print_table(result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
