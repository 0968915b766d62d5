"""Train a part of the reference pair: `python -m ecdiff.reference.train {vae,cloud,edge,...}`.

A run starts from the shipped weights (or those of `--start DIR`), from nothing for its own part
with `--fresh`, and keeps a usable pair in `OUT/weights`, to be copied over the shipped one.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from ecdiff.reference.classifier import save_classifier, train_classifier
from ecdiff.reference.models import (
    WEIGHTS,
    edge_from_cloud,
    new_cloud_unet,
    new_text_encoder,
    new_tokenizer,
    new_vae,
    pipeline,
    save_cloud,
    save_edge,
    save_vae,
)
from ecdiff.reference.runs import Budget, RunConfig
from ecdiff.reference.train_pair import Pair, train_cloud, train_edge
from ecdiff.reference.train_vae import train_vae

DEFAULTS = {  # batch, peak learning rate (its meaning: see muon.py)
    "vae": (4, 5e-3),
    "cloud": (32, 3e-3),
    "edge": (32, 3e-3),
    "classifier": (64, 4e-3),
}


def main() -> None:
    """Parse, load or make the modules, train, save."""
    args = _parser().parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    batch, lr = DEFAULTS[args.part]
    config = RunConfig(
        out=args.out,
        budget=Budget(args.samples, args.minutes),
        device=args.device,
        batch=args.batch or batch,
        lr=args.lr or lr,
        resume=args.resume,
    )
    weights = args.out / "weights"
    if args.part == "vae":
        vae = new_vae() if args.fresh else _load_vae(args.start)
        train_vae(config, vae, args.decoder_only)
        save_vae(vae, weights / "cloud" / "vae")
    elif args.part == "classifier":
        save_classifier(train_classifier(config, _load_vae(args.start)), weights / "classifier")
    else:
        _train_unet(args, config, weights)


def _train_unet(args: argparse.Namespace, config: RunConfig, weights: Path) -> None:
    cloud = args.start / "cloud"
    if args.part == "cloud":
        pair = _fresh_cloud(args.start) if args.fresh else load_pair(args.start)

        def export() -> None:
            pipe = pipeline(pair.vae, pair.text_encoder, pair.tokenizer, pair.cloud)
            save_cloud(pipe, weights / "cloud")

        train_cloud(config, pair, args.scenes, export)
        return
    pair = load_pair(args.start)
    edge = edge_from_cloud(pair.cloud) if args.fresh else _load_edge(args.start)
    shutil.copytree(cloud, weights / "cloud", dirs_exist_ok=True)
    train_edge(config, pair, edge, args.scenes, lambda: save_edge(edge, weights / "edge" / "unet"))


def load_pair(start: Path) -> Pair:
    """The cloud's modules from a weights folder, in float32."""
    cloud = start / "cloud"
    return Pair(
        _load_vae(start),
        CLIPTextModel.from_pretrained(cloud / "text_encoder", dtype=torch.float32),
        CLIPTokenizer.from_pretrained(cloud / "tokenizer"),
        UNet2DConditionModel.from_pretrained(cloud / "unet"),
    )


def _fresh_cloud(start: Path) -> Pair:
    tokenizer = new_tokenizer()
    return Pair(_load_vae(start), new_text_encoder(tokenizer), tokenizer, new_cloud_unet())


def _load_vae(start: Path) -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(start / "cloud" / "vae")


def _load_edge(start: Path) -> UNet2DConditionModel:
    return UNet2DConditionModel.from_pretrained(start / "edge" / "unet")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ecdiff.reference.train", description=__doc__)
    parser.add_argument("part", choices=list(DEFAULTS))
    parser.add_argument("--out", type=Path, required=True, help="checkpoint, grid and weights")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="training time of this run")
    length.add_argument("--samples", type=int, help="samples of this run")
    parser.add_argument("--resume", action="store_true", help="go on from OUT's checkpoint")
    parser.add_argument("--fresh", action="store_true", help="do not start from trained weights")
    parser.add_argument("--start", type=Path, default=WEIGHTS, help="weights folder to start from")
    parser.add_argument("--decoder-only", action="store_true", help="vae: keep the latents")
    parser.add_argument("--scenes", type=int, default=16384, help="cached scenes (cloud, edge)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch", type=int, help="default: by part")
    parser.add_argument("--lr", type=float, help="peak learning rate; default: by part")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    return parser


if __name__ == "__main__":
    main()
