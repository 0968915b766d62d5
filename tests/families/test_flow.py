"""A flow model is one file on the same contract: Stable Diffusion 3's network and scheduler.

Only text is left out: the family is given random embeddings, and diffusers the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from conftest import a_request, finish, tiny_vae
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from same import check_batch, check_checkpoints
from torch import Tensor

from ecdiff.errors import InputError
from ecdiff.families.base import LatentFamily, Row
from ecdiff.plan import Phase, Plan, cloud_only
from ecdiff.request import Request
from ecdiff.trajectory import Conditioning, Trajectory

WIDTH, POOLED = 16, 12


@dataclass(frozen=True)
class Flow(LatentFamily):
    """x = (1 - sigma) x0 + sigma eps; the network predicts eps - x0."""

    schedulers: ClassVar = {"euler": FlowMatchEulerDiscreteScheduler}

    vae: Any

    def latent_shape(self, request: Request) -> tuple[int, ...]:
        return (1, self.network.config.in_channels, request.height // 4, request.width // 4)

    def encode(self, request: Request) -> Conditioning:
        g = torch.Generator().manual_seed(len(request.prompt))
        return {
            name: torch.randn(shape, generator=g)
            for row in ("prompt", "negative")
            for name, shape in ((row, (1, 6, WIDTH)), (f"{row}_pooled", (1, POOLED)))
        }

    def call(self, latents: Tensor, timesteps: Tensor, rows: Sequence[Row]) -> Tensor:
        flow: Tensor = self.network(
            latents,
            encoder_hidden_states=torch.cat([r.embedding() for r in rows]),
            pooled_projections=torch.cat([r.embedding("_pooled") for r in rows]),
            timestep=timesteps,
            return_dict=False,
        )[0]
        return flow

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        config = self.vae.config
        pictures = self.vae.decode(latents / config.scaling_factor + config.shift_factor).sample
        return (pictures / 2 + 0.5).clamp(0, 1)

    def estimate(self, trajectory: Trajectory, noise: Tensor) -> tuple[Tensor, Tensor]:
        sigma = trajectory.scheduler.sigmas[trajectory.step]
        x = trajectory.latents
        return x - sigma * noise, x + (1 - sigma) * noise

    def output_for(self, trajectory: Trajectory, eps: Tensor) -> Tensor:
        sigma = trajectory.scheduler.sigmas[trajectory.step]
        return (eps - trajectory.latents) / (1 - sigma)


@pytest.fixture(scope="module")
def model() -> Flow:
    torch.manual_seed(0)
    network = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2,
        attention_head_dim=8, num_attention_heads=2, joint_attention_dim=WIDTH,
        caption_projection_dim=16, pooled_projection_dim=POOLED, pos_embed_max_size=16,
    )  # fmt: skip
    vae = tiny_vae(scaling_factor=0.5, shift_factor=0.1)
    config = dict(FlowMatchEulerDiscreteScheduler(shift=3.0).config)
    network, vae = network.eval().requires_grad_(False), vae.eval().requires_grad_(False)
    return Flow(network, config, torch.device("cpu"), torch.float32, vae)


@pytest.mark.parametrize("guidance", [5.0, 1.0])
def test_it_equals_diffusers(guidance: float, model: Flow) -> None:
    request = a_request(scheduler="euler", guidance=guidance, height=32, width=48)
    own = FlowMatchEulerDiscreteScheduler.from_config(model.scheduler_config)
    pipeline = StableDiffusion3Pipeline(model.network, own, model.vae, *[None] * 6)
    pipeline.set_progress_bar_config(disable=True)
    given = model.encode(request)
    asked: dict[str, Any] = {
        "prompt_embeds": given["prompt"],
        "pooled_prompt_embeds": given["prompt_pooled"],
        "negative_prompt_embeds": given["negative"],
        "negative_pooled_prompt_embeds": given["negative_pooled"],
        "height": 32,
        "width": 48,
        "guidance_scale": guidance,
        "num_inference_steps": 10,
    }
    (t,) = finish(model, request, cloud_only(10))
    for kind, ours in (("latent", t.latents), ("pt", model.decode(t.latents))):
        generator = torch.Generator().manual_seed(7)
        theirs = pipeline(**asked, generator=generator, output_type=kind).images
        assert (ours - theirs).abs().max() <= 1e-4


@pytest.mark.parametrize("space", ["output", "epsilon"])
def test_checkpoints_and_extrapolation_in_both_spaces(space: str, model: Flow) -> None:
    plan = Plan(14, (Phase("cloud", 14, 7, 2, 0.3, space=space),))
    check_checkpoints(model, a_request(scheduler="euler"), draws=False, plan=plan)


def test_a_batch_equals_each_alone(model: Flow) -> None:
    request = a_request(scheduler="euler")
    check_batch(model, [replace(request, guidance=g, seeds=(j,)) for j, g in enumerate((5, 1, 3))])


def test_only_its_own_scheduler(model: Flow) -> None:
    with pytest.raises(InputError, match=r"use euler$"):
        model.begin(a_request(), cloud_only(2), 7, {})
