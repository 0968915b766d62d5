"""LPIPS (Zhang et al. 2018, version 0.1) in plain torch, with AlexNet or VGG-16 features.

Its weights are two files, in torch hub's `checkpoints` folder or named by the caller: torchvision's
ImageNet network and the linear layers of the `lpips` package.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Literal

import torch
from torch import Tensor, nn

from ecdiff.errors import InputError
from ecdiff.quality.similarity import check_pair

Net = Literal["alex", "vgg"]
EPSILON = 1e-10  # keeps a feature of length 0 from dividing
SHIFT = (-0.030, -0.088, -0.188)  # the networks' input normalisation for pictures in [-1, 1]
SCALE = (0.458, 0.448, 0.450)
LINEAR_URL = "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1"


@dataclass(frozen=True)
class Backbone:
    """A network's `features`: its layers, and the ReLUs (by index) whose output is compared."""

    layers: tuple[tuple[int, ...] | str, ...]  # in, out, kernel, stride, padding; or relu, pool
    pool: tuple[int, int]  # kernel, stride
    taps: tuple[int, ...]
    widths: tuple[int, ...]  # channels at the taps
    file: str


def _vgg_layers() -> tuple[tuple[int, ...] | str, ...]:
    layers: list[tuple[int, ...] | str] = []
    before = 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers += [(before, width, 3, 1, 1), "relu"]
            before = width
        layers.append("pool")
    return tuple(layers[:-1])


BACKBONES: dict[str, Backbone] = {
    "alex": Backbone(
        (
            *((3, 64, 11, 4, 2), "relu", "pool", (64, 192, 5, 1, 2), "relu", "pool"),
            *((192, 384, 3, 1, 1), "relu", (384, 256, 3, 1, 1), "relu"),
            *((256, 256, 3, 1, 1), "relu"),
        ),
        (3, 2),
        (1, 4, 7, 9, 11),
        (64, 192, 384, 256, 256),
        "alexnet-owt-7be5be79.pth",
    ),
    "vgg": Backbone(
        _vgg_layers(),
        (2, 2),
        (3, 8, 15, 22, 29),
        (64, 128, 256, 512, 512),
        "vgg16-397923af.pth",
    ),
}


class Lpips(nn.Module):
    """Distance [B] of pictures [B, 3, H, W] in [0, 1]: 0 for equal ones, larger for less alike."""

    shift: Tensor
    scale: Tensor

    def __init__(self, net: Net = "alex") -> None:
        super().__init__()
        backbone = BACKBONES[net]
        self.features = nn.Sequential(*(_layer(layer, backbone) for layer in backbone.layers))
        self.linear = nn.ParameterList(
            nn.Parameter(torch.zeros(1, width, 1, 1)) for width in backbone.widths
        )
        self.taps = backbone.taps
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x = (torch.cat([a, b]) * 2 - 1 - self.shift) / self.scale
        total = torch.zeros(len(a), device=x.device, dtype=x.dtype)
        weights = iter(self.linear)
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                length = x.square().sum(1, keepdim=True).sqrt()
                one, other = (x / (length + EPSILON)).chunk(2)
                distance = (next(weights) * (one - other).square()).sum(1)
                total = total + distance.mean((1, 2))
        return total


def _layer(layer: tuple[int, ...] | str, backbone: Backbone) -> nn.Module:
    if isinstance(layer, str):
        return nn.ReLU() if layer == "relu" else nn.MaxPool2d(*backbone.pool)
    before, after, kernel, stride, padding = layer
    return nn.Conv2d(before, after, kernel, stride, padding)


@torch.no_grad()
def lpips(
    a: Tensor,
    b: Tensor,
    net: Net = "alex",
    backbone: Path | None = None,
    linear: Path | None = None,
) -> Tensor:
    """LPIPS [B] of pictures [B, 3, H, W] in [0, 1].

    `backbone` and `linear` name the weight files where they are not in the usual places. Raises
    InputError when shapes differ, a side is under 32 pixels, or a weight file is not there.
    """
    check_pair(a, b)
    if a.shape[1] != 3 or min(a.shape[-2:]) < 32:
        raise InputError(f"LPIPS needs pictures [B, 3, H, W] of 32x32 or more, not {list(a.shape)}")
    model = _load(net, *find_weights(net, backbone, linear)).to(a.device)
    distance: Tensor = model(a.float(), b.float().to(a.device))
    return distance


def find_weights(
    net: Net = "alex", backbone: Path | None = None, linear: Path | None = None
) -> tuple[Path, Path]:
    """The two weight files. Raises InputError that says how to get those that are absent."""
    if net not in BACKBONES:
        raise InputError(f"no LPIPS network {net!r}: use one of {', '.join(BACKBONES)}")
    file = BACKBONES[net].file
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    places = [linear] if linear else [folder / f"lpips-{net}.pth", *_installed(net)]
    network = backbone or folder / file
    head = next((place for place in places if place.is_file()), places[0])
    urls = {
        network: f"https://download.pytorch.org/models/{file}",
        head: f"{LINEAR_URL}/{net}.pth",
    }
    missing = [f"{url} as {path}" for path, url in urls.items() if not path.is_file()]
    if missing:
        raise InputError(f"LPIPS ({net}) has no weights here: save {' and '.join(missing)}")
    return network, head


def _installed(net: str) -> list[Path]:
    """The linear layers in an installed `lpips` package, which is not imported."""
    spec = find_spec("lpips")
    if spec is None or spec.origin is None:
        return []
    return [Path(os.path.dirname(spec.origin)) / "weights" / "v0.1" / f"{net}.pth"]


@cache
def _load(net: Net, backbone: Path, linear: Path) -> Lpips:
    model = Lpips(net)
    network = {
        name.removeprefix("features."): value
        for name, value in _read(backbone).items()
        if name.startswith("features.")
    }
    head = {
        f"{i}": value
        for i in range(len(model.taps))
        for name, value in _read(linear).items()
        if name.startswith(f"lin{i}.")
    }
    try:
        model.features.load_state_dict(network)
        model.linear.load_state_dict(head)
    except RuntimeError as error:
        raise InputError(f"{backbone} and {linear} are not LPIPS weights of {net}") from error
    return model.eval().requires_grad_(False)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        state: object = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"cannot read weights from {path}: {reason:.120}") from error
    if not isinstance(state, dict):
        raise InputError(f"{path} holds no weights by name: it is not the file LPIPS needs")
    return state
