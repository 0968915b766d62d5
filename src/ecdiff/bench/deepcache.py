"""DeepCache (Ma et al. 2024) for a U-Net of Stable Diffusion's shape: its rival among the rows.

Every `interval`-th call runs the whole network and keeps what enters the last up block; the calls
between run the first down block and the last up block alone, on the kept input.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from torch import Tensor

from ecdiff.measure import Families, begin, generate, wait_for
from ecdiff.plan import cloud_only
from ecdiff.request import Request

INTERVAL = 3
ROUNDS = 20


class DeepCache:
    """Stands in for a `UNet2DConditionModel` over one batch's run.

    One instance draws one batch, from its first step to its last: it keeps their features.
    """

    def __init__(self, unet: Any, interval: int = INTERVAL) -> None:
        self._unet, self._interval = unet, interval
        self._calls = 0
        self._deep: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._unet, name)

    def __call__(
        self,
        x: Tensor,
        t: Tensor,
        encoder_hidden_states: Tensor,
        timestep_cond: None = None,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        whole = self._calls % self._interval == 0
        self._calls += 1
        if whole:
            return self._run_whole(x, t, encoder_hidden_states)
        return self._run_shallow(x, t, encoder_hidden_states)

    def _run_whole(self, x: Tensor, t: Tensor, text: Tensor) -> tuple[Tensor]:
        def keep(module: Any, args: Any, kwargs: Any) -> None:
            self._deep = kwargs["hidden_states"]

        hook = self._unet.up_blocks[-1].register_forward_pre_hook(keep, with_kwargs=True)
        try:
            out: tuple[Tensor] = self._unet(x, t, encoder_hidden_states=text, return_dict=False)
        finally:
            hook.remove()
        return out

    def _run_shallow(self, x: Tensor, t: Tensor, text: Tensor) -> tuple[Tensor]:
        u = self._unet
        emb = u.time_embedding(u.time_proj(t).to(x.dtype))
        x = u.conv_in(x)
        down, up = u.down_blocks[0], u.up_blocks[-1]
        _, kept = down(hidden_states=x, temb=emb, **_text(down, text))
        skips = (x, *kept[: len(down.resnets)])  # without the downsampled one
        x = up(hidden_states=self._deep, res_hidden_states_tuple=skips, temb=emb, **_text(up, text))
        return (u.conv_out(u.conv_act(u.conv_norm_out(x))),)


def _text(block: Any, text: Tensor) -> dict[str, Tensor]:
    return {"encoder_hidden_states": text} if getattr(block, "has_cross_attention", False) else {}


def fits(unet: Any) -> bool:
    """Whether the network is of the plain shape that the shallow call repeats."""
    config = getattr(unet, "config", None)
    plain = (
        "class_embed_type",
        "addition_embed_type",
        "encoder_hid_dim_type",
        "time_cond_proj_dim",
    )
    return (
        config is not None
        and len(getattr(unet, "down_blocks", ())) > 1
        and len(unet.up_blocks[-1].resnets) == len(unet.down_blocks[0].resnets) + 1
        and all(getattr(config, name, None) is None for name in plain)
        and not getattr(config, "center_input_sample", False)
        and getattr(config, "time_embedding_act_fn", None) is None
    )


def draw(families: Families, requests: Sequence[Request], steps: int) -> Tensor:
    """Pictures [B, 3, H, W] of one batch by the cloud model with DeepCache."""
    cloud: Any = families["cloud"]
    cached: Families = {"cloud": replace(cloud, network=DeepCache(cloud.unet))}
    return generate(cached, requests, cloud_only(steps), batch=len(requests))


def shallow_share(families: Families, request: Request) -> float | None:
    """Time of a shallow call over that of a whole one, in turn; None where it does not fit."""
    cloud: Any = families["cloud"]
    if not fits(getattr(cloud, "unet", None)):
        return None
    family = replace(cloud, network=DeepCache(cloud.unet, interval=2))
    members = begin(family, [request], cloud_only(2))
    shares = []
    for _ in range(ROUNDS):
        seconds = []
        for _ in ("whole", "shallow"):
            began = time.perf_counter()
            wait_for(family.predict(members).device)
            seconds.append(time.perf_counter() - began)
        shares.append(seconds[1] / seconds[0])
    return round(median(shares), 4)
