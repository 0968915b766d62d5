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

from ecdiff.reference.classifier import train_classifier
from ecdiff.reference.distil import train_edge
from ecdiff.reference.heads import save_heads
from ecdiff.reference.layout import train_text
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
    save_text,
    save_vae,
)
from ecdiff.reference.runs import RunConfig, command_line, config_of
from ecdiff.reference.train_pair import Pair, train_cloud
from ecdiff.reference.train_vae import train_vae

DEFAULTS = {
    "vae": (4, 5e-3),
    "text": (256, 4e-3),
    "cloud": (64, 4e-3),
    "edge": (32, 3e-3),
    "classifier": (64, 4e-3),
}


def main() -> None:
    """Parse, load or make the modules, train, save."""
    parser = command_line("python -m ecdiff.reference.train", __doc__, DEFAULTS, WEIGHTS)
    parser.add_argument("--scenes", type=int, default=16384, help="cached scenes (cloud, edge)")
    parser.add_argument("--drawn", type=int, default=1024, help="pictures drawn first (edge)")
    args = parser.parse_args()
    config = config_of(args, DEFAULTS)
    weights = args.out / "weights"
    if args.part == "vae":
        vae = new_vae() if args.fresh else _load_vae(args.start)
        train_vae(config, vae, args.decoder_only)
        save_vae(vae, weights / "cloud" / "vae")
    elif args.part == "text":
        tokenizer = new_tokenizer()
        encoder = new_text_encoder(tokenizer)
        shutil.copytree(args.start / "cloud" / "vae", weights / "cloud" / "vae", dirs_exist_ok=True)
        train_text(config, encoder, tokenizer)
        save_text(encoder, tokenizer, weights / "cloud")
    elif args.part == "classifier":
        save_heads(train_classifier(config, _load_vae(args.start)), weights / "classifier")
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

    def export_edge() -> None:
        save_edge(edge, weights / "edge" / "unet")

    train_edge(config, pair, edge, args.scenes, args.drawn, export_edge)


def load_pair(start: Path) -> Pair:
    """The cloud's modules from a weights folder, in float32."""
    cloud = start / "cloud"
    unet = UNet2DConditionModel.from_pretrained(cloud / "unet")
    return Pair(_load_vae(start), *_load_text(start), unet)


def _fresh_cloud(start: Path) -> Pair:
    """A new U-Net beside the text encoder that `train text` left in `start`."""
    return Pair(_load_vae(start), *_load_text(start), new_cloud_unet())


def _load_text(start: Path) -> tuple[CLIPTextModel, CLIPTokenizer]:
    encoder = CLIPTextModel.from_pretrained(start / "cloud" / "text_encoder", dtype=torch.float32)
    return encoder, CLIPTokenizer.from_pretrained(start / "cloud" / "tokenizer")


def _load_vae(start: Path) -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(start / "cloud" / "vae")


def _load_edge(start: Path) -> UNet2DConditionModel:
    return UNet2DConditionModel.from_pretrained(start / "edge" / "unet")


if __name__ == "__main__":
    main()
