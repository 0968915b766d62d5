"""docs/add-a-family.md is true: its code is a family."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from conftest import a_request, finish
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from same import check_batch, check_checkpoints
from tiny import load

from ecdiff.errors import InputError
from ecdiff.plan import cloud_only, split

DOCUMENT = Path(__file__).parents[2] / "docs" / "add-a-family.md"


@pytest.fixture(scope="module")
def dit() -> ModuleType:
    [code] = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    module = sys.modules["dit"] = ModuleType("dit")
    exec(compile(code, str(DOCUMENT), "exec"), module.__dict__)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dit")
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, num_layers=2,
        sample_size=8, num_embeds_ada_norm=10, norm_num_groups=2,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=2,
    )
    with torch.no_grad():  # its last layer starts at zero: give it something to say
        for parameter in transformer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    scheduler = DDIMScheduler(clip_sample=False)
    DiTPipeline(transformer, vae, scheduler).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(dit: ModuleType, folder: Path) -> Any:
    return load(dit, folder)


def test_it_equals_diffusers(model: Any, folder: Path) -> None:
    """Without guidance: DiTPipeline guides three of the four channels only."""
    pipeline = DiTPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    plain = pipeline(
        class_labels=[3],
        guidance_scale=1.0,
        generator=torch.Generator().manual_seed(7),
        num_inference_steps=10,
        output_type="np",
    ).images
    (t,) = finish(model, a_request(prompt="3", guidance=1.0), cloud_only(10))
    got = model.decode(t.latents).permute(0, 2, 3, 1).numpy()
    assert abs(got - plain).max() <= 1e-4


def test_what_holds_of_every_family(model: Any) -> None:
    check_checkpoints(model, a_request(prompt="3"), draws=False)
    check_batch(model, [a_request(prompt=str(j), guidance=g) for j, g in enumerate((5, 1, 3, 7))])


def test_it_extrapolates(model: Any) -> None:
    (whole,) = finish(model, a_request(prompt="3"), cloud_only(20))
    (skipped,) = finish(model, a_request(prompt="3"), split(20, 20, 7, 2, 0.3))
    assert not torch.equal(whole.latents, skipped.latents)
    assert (whole.latents - skipped.latents).abs().mean() < 0.1 * whole.latents.abs().mean()


@pytest.mark.parametrize(
    ("changes", "message"), [({"prompt": "a fish"}, "use a class"), ({"width": 64}, "use 32x32")]
)
def test_its_errors(changes: dict[str, Any], message: str, model: Any) -> None:
    request = a_request(**({"prompt": "3"} | changes))
    with pytest.raises(InputError, match=message):
        model.begin(request, cloud_only(2), 7, model.encode(request))
