"""The networks' real classes with random weights: for timings, where no weights are at hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
import transformers
from transformers import BatchEncoding


def build(config: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> Any:
    """The model of `config["_class_name"]` on `device`; `meta` costs neither time nor memory.

    Other keys are that class's own; what is left out has the class's default. Weights are drawn
    in float32 on the device itself, then converted.
    """
    name, rest = config["_class_name"], {k: v for k, v in config.items() if k != "_class_name"}
    with torch.device(device):
        if hasattr(diffusers, name):
            model = getattr(diffusers, name).from_config(rest)
        else:
            kind = getattr(transformers, name)
            model = kind(kind.config_class(**rest))
    return torch.nn.Module.to(model, dtype).eval().requires_grad_(False)


def parameters(model: Any) -> int:
    return sum(p.numel() for p in model.parameters())


@dataclass(frozen=True)
class AnyTokens:
    """In a tokenizer's place: every text becomes the same tokens, as many as the model takes."""

    model_max_length: int

    def __call__(self, text: Any, max_length: int | None = None, **_: Any) -> Any:
        rows = 1 if isinstance(text, str) else len(text)
        ids = torch.ones(rows, max_length or self.model_max_length, dtype=torch.long)
        return BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
