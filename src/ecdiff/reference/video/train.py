"""Train a part of the video pair: `python -m ecdiff.reference.video.train {vae,cloud,edge,...}`.

A run starts from the shipped weights (or those of `--start DIR`), from nothing for its own part
with `--fresh`, and keeps its result in `OUT/weights`, to be copied over the shipped ones.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from diffusers import AutoencoderKLCogVideoX

from ecdiff.reference.heads import save_heads
from ecdiff.reference.runs import RunConfig, command_line, config_of
from ecdiff.reference.video.classifier import train_classifier
from ecdiff.reference.video.models import (
    WEIGHTS,
    edge_from_cloud,
    load_pipeline,
    load_vae,
    new_cloud,
    new_text_encoder,
    new_tokenizer,
    new_vae,
    pipeline,
    save,
    save_vae,
)
from ecdiff.reference.video.pair import Pair, train_cloud, train_edge
from ecdiff.reference.video.vae import train_vae

DEFAULTS = {
    "vae": (2, 5e-3),
    "cloud": (64, 3e-3),
    "edge": (64, 3e-3),
    "classifier": (64, 4e-3),
}


def main() -> None:
    """Parse, load or make the modules, train, save."""
    parser = command_line("python -m ecdiff.reference.video.train", __doc__, DEFAULTS, WEIGHTS)
    parser.add_argument("--clips", type=int, default=4096, help="cached clips (cloud, edge)")
    args = parser.parse_args()
    config = config_of(args, DEFAULTS)
    weights = args.out / "weights"
    if args.part == "vae":
        vae = new_vae() if args.fresh else load_vae(args.start)
        train_vae(config, vae, args.decoder_only)
        save_vae(vae, weights)
    elif args.part == "classifier":
        save_heads(train_classifier(config, load_vae(args.start)), weights / "classifier")
    elif args.part == "cloud":
        _train_cloud(args, config, weights)
    else:
        _train_edge(args, config, weights)


def _train_cloud(args: argparse.Namespace, config: RunConfig, weights: Path) -> None:
    vae = load_vae(args.start)
    if args.fresh:
        tokenizer = new_tokenizer()
        pair = Pair(vae, new_text_encoder(tokenizer), tokenizer, new_cloud())
    else:
        pair = _load_pair(args.start, vae)

    def export() -> None:
        pipe = pipeline("cloud", vae, pair.text_encoder, pair.tokenizer, pair.cloud)
        save(pipe, weights / "cloud")

    save_vae(vae, weights)
    train_cloud(config, pair, args.clips, export)


def _train_edge(args: argparse.Namespace, config: RunConfig, weights: Path) -> None:
    vae = load_vae(args.start)
    pair = _load_pair(args.start, vae)
    if args.fresh:
        edge = edge_from_cloud(pair.cloud)
    else:
        edge = load_pipeline(args.start, "edge").transformer

    def export() -> None:
        pipe = pipeline("edge", vae, pair.text_encoder, pair.tokenizer, edge)
        save(pipe, weights / "edge")

    shutil.copytree(args.start / "cloud", weights / "cloud", dirs_exist_ok=True)
    train_edge(config, pair, edge, args.clips, export)


def _load_pair(start: Path, vae: AutoencoderKLCogVideoX) -> Pair:
    """The cloud's modules from a weights folder, in float32, with the edge's `vae`."""
    pipe = load_pipeline(start)
    return Pair(vae, pipe.text_encoder, pipe.tokenizer, pipe.transformer)


if __name__ == "__main__":
    main()
