"""docs/add-a-family.md is true: its code is a family."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from conftest import a_request, finish, running, tiny_vae
from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from same import check_batch, check_checkpoints
from tiny import load

from ecdiff import EdgeCloudPipeline, pairs
from ecdiff.errors import InputError
from ecdiff.pairs import Pair
from ecdiff.plan import PlanDefaults, cloud_only, split
from ecdiff.sources import Side, Source

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
        sample_size=8, num_embeds_ada_norm=1000, norm_num_groups=2,
    )  # fmt: skip
    vae = tiny_vae()
    with torch.no_grad():  # its last layer starts at zero: give it something to say
        for parameter in transformer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    scheduler = DDIMScheduler(clip_sample=False)
    DiTPipeline(transformer, vae, scheduler).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(dit: ModuleType, folder: Path) -> Any:
    return load(dit, folder)


@pytest.mark.parametrize("guidance", [5.0, 1.0])
def test_it_equals_diffusers(guidance: float, model: Any, folder: Path) -> None:
    pipeline = DiTPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        class_labels=[3],
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(7),
        num_inference_steps=10,
        output_type="np",
    ).images
    (t,) = finish(model, a_request(prompt="3", guidance=guidance), cloud_only(10))
    ours = model.decode(t.latents).permute(0, 2, 3, 1).numpy()
    assert ours.shape == theirs.shape == (1, 32, 32, 3)
    assert abs(ours - theirs).max() <= 1e-4


def test_what_holds_of_every_family(model: Any) -> None:
    check_checkpoints(model, a_request(prompt="3"), draws=False)
    check_batch(model, [a_request(prompt=str(j), guidance=g) for j, g in enumerate((5, 1, 3, 7))])


def test_it_extrapolates(model: Any) -> None:
    (whole,) = finish(model, a_request(prompt="3"), cloud_only(20))
    (skipped,) = finish(model, a_request(prompt="3"), split(20, 20, 7, 2, 0.3))
    assert not torch.equal(whole.latents, skipped.latents)
    assert (whole.latents - skipped.latents).abs().mean() < 0.1 * whole.latents.abs().mean()


@pytest.mark.parametrize(
    ("changes", "message"), [({"prompt": "1001"}, r"use 0\.\.999"), ({"width": 64}, "use 32x32")]
)
def test_its_errors(changes: dict[str, Any], message: str, model: Any) -> None:
    request = a_request(**({"prompt": "3"} | changes))
    with pytest.raises(InputError, match=message):
        model.begin(request, cloud_only(2), 7, model.encode(request))


def test_with_its_name_in_place_it_is_served_like_any_other(
    dit: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ecdiff.families.dit", dit)
    monkeypatch.setitem(pairs.FAMILIES, "dit", "transformer")
    monkeypatch.setitem(pairs.TEXT_WIDTH, "dit", "num_embeds_ada_norm")
    monkeypatch.setitem(pairs.UNSAID_SCALING, "dit", 0.18215)
    side = Side(Source(str(folder)))
    defaults = PlanDefaults(warmup=7, skip=2, smoothing=0.3, handoff_step=12, steps=16)
    pair = Pair("dit", "dit", side, side, "1", defaults, 5.0, 32, 32, "unknown")
    asked = {"num_inference_steps": 16, "seed": 3, "output_type": "pt"}
    near = EdgeCloudPipeline.from_pretrained(pair)("3", **asked)
    with running(pair) as server:
        far = EdgeCloudPipeline.from_pretrained(pair, server.ws)("3", **asked)
    assert near.images.shape == (1, 3, 32, 32)
    assert torch.equal(near.images, far.images)
    assert far.receipt.plan.counts().extrapolated == 4
    one_sided = EdgeCloudPipeline.from_pretrained(pair)("3", method="edge", **asked)
    assert not torch.equal(near.images, one_sided.images)
