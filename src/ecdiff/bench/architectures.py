"""The pairs' real networks, from the configurations kept in `architectures.json`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module, resources
from typing import Any

import torch

from ecdiff.errors import InputError, PairError
from ecdiff.families.random_weights import AnyTokens, build, parameters
from ecdiff.plan import Site
from ecdiff.trajectory import Family

META = torch.device("meta")
VAE = frozenset({"vae"})
TOKENS = {"CLIPTextModel": 77, "CLIPTextModelWithProjection": 77}


@cache
def data() -> dict[str, Any]:
    """`components` (class, configuration, parameters), `schedulers` and `pairs`, by name."""
    text = resources.files(__package__).joinpath("architectures.json").read_text()
    content: dict[str, Any] = json.loads(text)
    return content


def pair_parts(pair: str) -> dict[str, Any]:
    """The entry of that pair. Raises InputError, or PairError where a network is not known."""
    entries = data()["pairs"]
    if pair not in entries:
        known = ", ".join(name for name, entry in entries.items() if "unknown" not in entry)
        raise InputError(f"no architecture of a pair {pair!r} is kept here: use one of {known}")
    entry: dict[str, Any] = entries[pair]
    if "unknown" in entry:
        raise PairError(f"{pair} cannot be timed: {entry['unknown']}")
    return entry


def config_of(name: str, smallest: bool, text_layers: int | None = None) -> dict[str, Any]:
    """A component's configuration. `smallest` narrows it as its entry says: same class, same
    blocks, fewer channels (and layers, in transformers). `text_layers` cuts a text encoder."""
    component = data()["components"][name]
    config: dict[str, Any] = component["config"] | (component["smallest"] if smallest else {})
    if text_layers is not None:
        key = "num_layers" if "d_model" in config else "num_hidden_layers"
        config = config | {key: text_layers}
    return config


def count(name: str) -> int:
    """The parameters that component has when it is built from its configuration."""
    return parameters(build(config_of(name, smallest=False), META, torch.float32))


def check_counts(pair: str) -> dict[str, int]:
    """Parameters of each component of the pair, by name.

    Raises PairError where the configuration does not give the published count.
    """
    entry = pair_parts(pair)
    names = {name for site in ("cloud", "edge") for key, name in entry[site].items()}
    counts = {name: count(name) for name in sorted(names & data()["components"].keys())}
    for name, found in counts.items():
        expected = data()["components"][name]["parameters"]
        if found != expected:
            raise PairError(f"{name} has {found:,} parameters here, not {expected:,}")
    return counts


def families(
    pair: str, smallest: bool, skip_text: bool, device: torch.device, dtype: torch.dtype
) -> dict[Site, Family]:
    """Both sides of a pair with random weights. What they share is built once.

    `skip_text` leaves one layer of each text encoder: embeddings keep their shape.
    """
    entry, built = pair_parts(pair), dict[str, Any]()
    family = import_module(f"ecdiff.families.{entry['family']}")
    return {
        site: family.load(_Built(entry[site], built, smallest, skip_text, device, dtype), VAE)
        for site in ("cloud", "edge")
    }


@dataclass(frozen=True)
class _Built:
    """In a `Loader`'s place: parts with random weights, built once for both sides."""

    parts: Mapping[str, str]  # component by the name of its folder
    built: dict[str, Any]
    smallest: bool
    skip_text: bool
    device: torch.device
    dtype: torch.dtype

    @property
    def name(self) -> str:
        return self.parts.get("unet") or self.parts["transformer"]

    def config(self, name: str) -> dict[str, Any]:
        return config_of(self.parts[name], self.smallest)

    def network(self, kind: Any, name: str) -> Any:
        return self._part(name, None)

    def _part(self, name: str, dtype: torch.dtype | None) -> Any:
        component, chosen = self.parts[name], dtype or self.dtype
        key = f"{component} {chosen}"
        if key not in self.built:
            layers = 1 if self.skip_text and name.startswith("text_encoder") else None
            config = config_of(component, self.smallest, layers)
            self.built[key] = build(config, self.device, chosen)
        return self.built[key]

    def lazy(self, kind: Any, name: str, now: bool) -> Callable[[], Any]:
        return lambda: self._part(name, None)

    def vae(self, now: bool, dtype: torch.dtype | None = None) -> Callable[[], Any]:
        return lambda: self._part("vae", dtype)

    def tokenizer(self, kind: Any, name: str = "tokenizer") -> Any:
        encoder = name.replace("tokenizer", "text_encoder")
        tokens = TOKENS.get(data()["components"][self.parts[encoder]]["config"]["_class_name"])
        return AnyTokens(tokens or config_of(self.name, self.smallest)["max_text_seq_length"])

    def lazy_tokenizer(self, kind: Any, now: bool) -> Callable[[], Any]:
        return lambda: self.tokenizer(kind)

    def scheduler_config(self) -> dict[str, Any]:
        config: dict[str, Any] = data()["schedulers"][self.parts["scheduler"]]
        return config

    def pipeline_config(self) -> dict[str, Any]:
        return {}
