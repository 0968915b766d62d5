"""Classifiers with several heads: their training, and their weights as a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from ecdiff.reference.data import to_floats
from ecdiff.reference.runs import Run, RunConfig

FILE = "model.safetensors"


@dataclass(frozen=True)
class Examples:
    """Rendered pictures or clips, bytes [N, 3, ...]; the first M of them rebuilt from latents."""

    plain: torch.Tensor
    rebuilt: torch.Tensor  # [M, 3, ...]
    truth: dict[str, torch.Tensor]  # head to classes [N]


def trunk(stages: Iterable[tuple[int, int, int]]) -> list[nn.Module]:
    """Convolutions of 3 x 3 by channels in, channels out and stride, each normed and activated."""
    layers: list[nn.Module] = []
    for before, after, stride in stages:
        layers += [nn.Conv2d(before, after, 3, stride, 1), nn.GroupNorm(8, after), nn.SiLU()]
    return layers


def train_heads(
    config: RunConfig,
    classifier: nn.Module,
    examples: Examples,
    augment: Callable[[torch.Tensor, torch.Generator], torch.Tensor],
) -> None:
    """Train in place: half of each batch plain and half rebuilt, all heads' cross-entropy."""
    plain, rebuilt = examples.plain, examples.rebuilt

    def loss_of_step(g: torch.Generator) -> torch.Tensor:
        a = torch.randint(len(plain), (config.batch // 2,), generator=g)
        b = torch.randint(len(rebuilt), (config.batch // 2,), generator=g)
        x = augment(to_floats(torch.cat([plain[a], rebuilt[b]])), g)
        index = torch.cat([a, b])
        with torch.autocast(config.device, torch.bfloat16):
            logits = classifier(x.to(config.device))
        losses = [
            F.cross_entropy(logits[head].float(), wanted[index].to(config.device))
            for head, wanted in examples.truth.items()
        ]
        return torch.stack(losses).sum()

    Run(config, {"classifier": classifier}).train(loss_of_step)


def save_heads(classifier: nn.Module, folder: Path) -> None:
    """Write the weights in float16."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.cpu().half().contiguous() for k, v in classifier.state_dict().items()}
    save_file(state, folder / FILE)


def load_heads(classifier: nn.Module, folder: Path) -> None:
    """Read what `save_heads` wrote, in float32, ready to judge."""
    classifier.load_state_dict({k: v.float() for k, v in load_file(folder / FILE).items()})
    classifier.eval()
