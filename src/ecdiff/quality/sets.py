"""Measures of whole sets of pictures: FID, and the CLIP score of pictures against their prompts.

Neither network is shipped: both are named by a path (or, for CLIP, a hub id). FID needs the extra
`metrics`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ecdiff.errors import InputError
from ecdiff.quiet import quiet_transformers

INCEPTION_URL = (
    "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/"
    "inception-2015-12-05.pt"
)
BATCH = 16


class Features(nn.Module):
    """The TorchScript Inception network as torchmetrics wants it: 8-bit pictures to [B, 2048]."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.network(x, return_features=True)
        return features


@torch.no_grad()
def fid(a: Tensor, b: Tensor, network: Path | None = None) -> float:
    """Frechet distance of two sets [N, 3, H, W] in [0, 1] in Inception's feature space.

    `network` is the TorchScript file of the original Inception network, by default
    `inception-2015-12-05.pt` in torch hub's `checkpoints`. Meaningful from some thousand pictures
    on. Raises InputError for a missing extra or network, other shapes, or fewer than 2 pictures.
    """
    for pictures in (a, b):
        if pictures.ndim != 4 or pictures.shape[1] != 3:
            raise InputError(f"FID needs pictures [N, 3, H, W], not {list(pictures.shape)}")
    if min(len(a), len(b)) < 2:
        raise InputError(f"FID of {len(a)} and {len(b)} pictures: it needs at least 2 of each")
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance
    except ImportError as error:
        raise InputError("FID needs torchmetrics: pip install 'ecdiff[metrics]'") from error
    path = network or Path(torch.hub.get_dir()) / "checkpoints" / "inception-2015-12-05.pt"
    if not path.is_file():
        raise InputError(f"FID has no network here: save {INCEPTION_URL} as {path}")
    try:
        inception = torch.jit.load(str(path), map_location=a.device)  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise InputError(f"{path} is no TorchScript network: save {INCEPTION_URL} there") from error
    features = Features(inception.eval())
    metric = FrechetInceptionDistance(features, normalize=False).to(a.device)
    for pictures, real in ((a, False), (b, True)):
        for part in torch.split(pictures, BATCH):
            metric.update((part * 255).round().byte(), real=real)
    return float(metric.compute())


@torch.no_grad()
def clip_score(pictures: Tensor, prompts: Sequence[str], model: str) -> Tensor:
    """[B]: 100 times the cosine of each picture [B, 3, H, W] in [0, 1] and its prompt, at least 0.

    `model` is a CLIP model's folder or hub id, such as `openai/clip-vit-large-patch14`.
    Raises InputError when it cannot be loaded or the counts differ.
    """
    if len(pictures) != len(prompts):
        raise InputError(f"{len(pictures)} pictures and {len(prompts)} prompts: give one each")
    network, tokenizer, processor = _clip(model)
    texts = tokenizer(list(prompts), padding=True, truncation=True, return_tensors="pt")
    pixels = processor(
        [(picture * 255).round().byte().cpu().numpy() for picture in pictures],
        return_tensors="pt",
        input_data_format="channels_first",
    )["pixel_values"]
    out = network(
        input_ids=texts["input_ids"], attention_mask=texts["attention_mask"], pixel_values=pixels
    )
    cosine: Tensor = torch.cosine_similarity(out.image_embeds, out.text_embeds)
    return 100 * cosine.clamp(min=0)


def _clip(model: str) -> tuple[Any, Any, Any]:
    with quiet_transformers():
        from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

        try:
            return (
                CLIPModel.from_pretrained(model).eval(),
                CLIPTokenizer.from_pretrained(model),
                CLIPImageProcessor.from_pretrained(model),
            )
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                f"cannot load the CLIP model {model!r}: {reason:.160}. Name a folder that holds "
                "it, or openai/clip-vit-large-patch14 where the hub can be reached"
            ) from error
