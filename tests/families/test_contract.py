"""What must hold of sdxl and cogvideox alike, beyond what each family's own file tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from conftest import a_request, finish, running
from diffusers import CogVideoXPipeline, StableDiffusionXLPipeline
from same import check_checkpoints
from tiny import load, make_cogvideox_pair, make_sdxl_pair
from torch import Tensor

from ecdiff import EdgeCloudPipeline, pairs
from ecdiff.edge.client import Network
from ecdiff.errors import InputError, RefusedError
from ecdiff.families import cogvideox, sdxl
from ecdiff.pairs import Pair
from ecdiff.plan import Phase, Plan, cloud_only
from ecdiff.request import Request
from ecdiff.trajectory import Trajectory

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Kind:
    """A family, its tiny pair, and how diffusers draws the same."""

    family: ModuleType
    make: Callable[[Path], Path]
    usual: dict[str, Any]
    odd: dict[str, Any]  # a size that is not the model's own
    pipeline: Any
    told: dict[str, Any]  # what only diffusers is told


KINDS = {
    "sdxl": Kind(
        sdxl, make_sdxl_pair, {}, {"height": 40, "width": 56}, StableDiffusionXLPipeline, {}
    ),
    "cogvideox": Kind(
        cogvideox,
        make_cogvideox_pair,
        {"frames": 9},
        {"frames": 9, "height": 48, "width": 16},
        CogVideoXPipeline,
        {"max_sequence_length": 12},
    ),
}
CLASSES: dict[str, Any] = {
    "sdxl": sdxl.StableDiffusionXL.schedulers,
    "cogvideox": cogvideox.CogVideoX.schedulers,
}
EACH = [(name, scheduler) for name in KINDS for scheduler in CLASSES[name]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: kind.make(tmp_path_factory.mktemp(name)) for name, kind in KINDS.items()}


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, Any]:
    return {name: load(kind.family, folders[name] / "cloud") for name, kind in KINDS.items()}


@pytest.fixture(scope="module")
def plain(folders: dict[str, Path]) -> dict[str, Any]:
    """diffusers' own pipelines on the clouds' folders."""
    plain = {n: k.pipeline.from_pretrained(folders[n] / "cloud") for n, k in KINDS.items()}
    for pipeline in plain.values():
        pipeline.set_progress_bar_config(disable=True)
    return plain


def a(name: str, **changes: Any) -> Request:
    return a_request(**(KINDS[name].usual | changes))


def v_prediction(model: Any) -> Any:
    config = model.scheduler_config | {"prediction_type": "v_prediction"}
    return replace(model, scheduler_config=config, _ready={})


def diffusers_latents(pipeline: Any, name: str, request: Request, steps: int) -> Tensor:
    kind = CLASSES[name][request.scheduler]
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config)
    told = KINDS[name].told | ({"num_frames": request.frames} if request.frames else {})
    count = len(request.seeds)
    drawn = pipeline(
        [request.prompt] * count,
        negative_prompt=[request.negative_prompt] * count,
        height=request.height,
        width=request.width,
        num_inference_steps=steps,
        guidance_scale=request.guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in request.seeds],
        output_type="latent",
        return_dict=False,
        **told,
    )[0]
    assert isinstance(drawn, Tensor)
    return drawn


@pytest.mark.parametrize("guidance", [5.0, 1.0])
@pytest.mark.parametrize(("name", "scheduler"), EACH)
def test_latents_of_an_all_cloud_plan_equal_diffusers(
    name: str, scheduler: str, guidance: float, models: dict[str, Any], plain: dict[str, Any]
) -> None:
    """Two seeds, a negative prompt and an odd size at once; no decoder's clamp hides anything."""
    request = a(
        name,
        scheduler=scheduler,
        guidance=guidance,
        seeds=(7, 11),
        negative_prompt="blue fish",
        **KINDS[name].odd,
    )
    theirs = diffusers_latents(plain[name], name, request, 6)
    rows: list[int] = []

    def count(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rows.append(len(args[0] if args else kwargs["hidden_states"]))

    hook = models[name].network.register_forward_pre_hook(count, with_kwargs=True)
    ours = torch.cat([t.latents for t in finish(models[name], request, cloud_only(6))])
    hook.remove()
    assert ours.shape == theirs.shape
    assert not torch.allclose(ours[0], ours[1], atol=1e-2)
    assert (ours - theirs).abs().max() <= 1e-4
    assert rows == [4 if guidance > 1 else 2] * 6


@pytest.mark.parametrize("space", ["output", "epsilon"])
@pytest.mark.parametrize(("name", "scheduler"), EACH)
def test_the_paper_s_plan_resumes_at_every_step_bit_for_bit(
    name: str, scheduler: str, space: str, models: dict[str, Any]
) -> None:
    """p = 7, k = 2, of v-prediction: cycles are cut before, within and after every extrapolation.

    With the noise that stochastic schedulers draw.
    """
    plan = Plan(16, (Phase("cloud", 16, 7, 2, 0.3, space=space),))
    draws = scheduler in ("lcm", "dpm")
    check_checkpoints(v_prediction(models[name]), a(name, scheduler=scheduler), draws, plan)


@pytest.mark.parametrize(("name", "scheduler"), EACH)
def test_epsilon_linear_in_the_step_is_extrapolated_exactly(
    name: str, scheduler: str, models: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a v-prediction model, in the space of epsilon and with alpha 1; not in that of v."""
    model = v_prediction(models[name])
    request = a(name, scheduler=scheduler)
    g = torch.Generator().manual_seed(0)
    first, change = torch.randn((2, *model.latent_shape(request)), generator=g)

    def linear(_: Any, trajectories: list[Trajectory]) -> Tensor:
        (t,) = trajectories
        if t.step == 0:  # where abar is 0, epsilon is the latents themselves
            return torch.zeros_like(t.latents)
        return model.output_for(t, first + 0.1 * t.step * change)

    conditioning = model.encode(request)
    monkeypatch.setattr(type(model), "predict", linear)
    monkeypatch.setattr(type(model), "encode", lambda *_: conditioning)

    def latents(**phase: Any) -> Tensor:
        [t] = finish(model, request, Plan(20, (Phase("cloud", 20, **phase),)))
        return t.latents

    whole = latents()
    rest = {"warmup": 7, "skip": 2, "smoothing": 1.0}
    off = (latents(**rest, space="epsilon") - whole).abs().max() / whole.abs().max()
    off_in_v = (latents(**rest, space="output") - whole).abs().max() / whole.abs().max()
    print(f"{name} {scheduler}: {off:.1e} in epsilon, {off_in_v:.1e} in v")
    assert off <= 1e-5
    assert off_in_v > 1e-3


@pytest.fixture(scope="module")
def sdxl_pair(folders: dict[str, Path]) -> Pair:
    return pairs.resolve(str(folders["sdxl"]))


def ec_diff(**more: Any) -> dict[str, Any]:
    return {
        "num_inference_steps": 16, "warmup": 7, "skip": 2, "handoff_step": 12, "seed": 3,
        "output_type": "pt", "negative_prompt": "blue fish",
    } | more  # fmt: skip


def test_over_the_socket_equals_in_process(sdxl_pair: Pair) -> None:
    """Of SDXL; CogVideoX's own file has its handoffs."""
    near = EdgeCloudPipeline.from_pretrained(sdxl_pair)
    with running(sdxl_pair) as server:
        far = EdgeCloudPipeline.from_pretrained(sdxl_pair, server.ws)
        for scheduler in CLASSES["sdxl"]:
            asked = ec_diff(scheduler=scheduler, num_images_per_prompt=2)
            a, b = near("a red house", **asked), far("a red house", **asked)
            assert a.images.shape == (2, 3, 32, 32)
            assert (a.images - b.images).abs().max() <= 1e-5
            assert b.receipt.plan.counts().extrapolated == 4


@pytest.mark.parametrize(("name", "edge_encodes"), [("sdxl", True), ("cogvideox", False)])
def test_who_encodes_the_prompt(name: str, edge_encodes: bool, folders: dict[str, Path]) -> None:
    """SDXL's edge does; CogVideoX's gets the embeddings sent and never makes its T5."""
    pair = pairs.resolve(str(folders[name]))
    edge: Any = pairs.load(pair, "edge", CPU, torch.float32)
    encoded: list[Request] = []
    with running(pair) as server, pytest.MonkeyPatch.context() as patch:
        kind, encode = type(edge), type(edge).encode

        def seen(self: Any, request: Request) -> Any:
            if self is edge:
                encoded.append(request)
            return encode(self, request)

        patch.setattr(kind, "encode", seen)
        result = EdgeCloudPipeline(pair, edge, Network(server.ws))("a fish", **ec_diff())
    assert bool(encoded) == edge_encodes
    assert bool(edge.load_text_encoder._made) == edge_encodes
    request = result.receipt.request
    latents = torch.Size(edge.latent_shape(request)).numel() * edge.dtype.itemsize
    embeddings = sum(tensor.nbytes for tensor in encode(edge, request).values())
    assert (result.receipt.bytes.received < latents + embeddings) == edge_encodes


REFUSED: dict[str, list[tuple[dict[str, Any], str]]] = {
    "sdxl": [
        ({"scheduler": "dpm"}, r"'dpm'.* use ddim or euler or dpm\+\+ or lcm"),
        ({"num_frames": 9}, "frames is 9: this model draws pictures"),
    ],
    "cogvideox": [
        ({"scheduler": "euler"}, "'euler'.* use ddim or dpm$"),
        ({"scheduler": "lcm"}, "'lcm'.* use ddim or dpm$"),
        ({"num_frames": 7}, r"frames is 7: this model draws 1, 9, 17, \.\.\. up to 9"),
    ],
}


@pytest.mark.parametrize("name", KINDS)
def test_a_server_says_what_its_family_can_draw(name: str, folders: dict[str, Path]) -> None:
    """The refusal crosses the wire with its list, and the next job runs."""
    pair = pairs.resolve(str(folders[name]))
    with running(pair) as server:
        pipe = EdgeCloudPipeline.from_pretrained(pair, server.ws)
        for changes, message in REFUSED[name]:
            with pytest.raises(RefusedError, match=message):
                pipe("a fish", **ec_diff(**changes))
        assert pipe("a fish", **ec_diff()).images.isfinite().all()


def test_illegal_sizes_name_the_legal_ones(models: dict[str, Any]) -> None:
    coarse = {name: replace(model, vae_factor=16) for name, model in models.items()}
    with pytest.raises(InputError, match=r"width is 40: .*multiple of 16, at least 32"):
        coarse["sdxl"].latent_shape(a("sdxl", width=40))
    with pytest.raises(InputError, match=r"height is 48: .*multiple of 32, such as 64"):
        coarse["cogvideox"].latent_shape(a("cogvideox", height=48))
