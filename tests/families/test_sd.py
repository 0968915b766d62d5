from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import a_request, finish, make_pair, run_plan, unet_rows
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    StableDiffusionPipeline,
)
from torch import Tensor

from ecdiff import pairs
from ecdiff.errors import InputError, NonFiniteError, PairError, PayloadError
from ecdiff.families import sd
from ecdiff.families.loading import Loader
from ecdiff.families.sd import StableDiffusion
from ecdiff.handoff import pack, unpack
from ecdiff.plan import Phase, Plan, cloud_only, edge_only, split
from ecdiff.request import Request
from ecdiff.sources import Side, Source
from ecdiff.trajectory import Snapshot, Trajectory, advance, denoise, snapshot

PLAIN = {
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "lcm": LCMScheduler,
}
SCHEDULERS = tuple(PLAIN)
PRINT = "f" * 64
Generate = Callable[..., tuple[Tensor, Tensor]]


@pytest.fixture(scope="module")
def plain(pair_folder: Path) -> Generate:
    """diffusers' own pipeline: (latents, pictures in [0, 1]) of a request."""
    pipeline = StableDiffusionPipeline.from_pretrained(pair_folder / "cloud")
    pipeline.set_progress_bar_config(disable=True)
    config = pipeline.scheduler.config

    def generate(request: Request, steps: int) -> tuple[Tensor, Tensor]:
        pipeline.scheduler = PLAIN[request.scheduler].from_config(config)
        latents = pipeline(
            request.prompt,
            height=request.height,
            width=request.width,
            num_inference_steps=steps,
            guidance_scale=request.guidance,
            negative_prompt=request.negative_prompt or None,
            num_images_per_prompt=len(request.seeds),
            generator=[torch.Generator().manual_seed(seed) for seed in request.seeds],
            output_type="latent",
        ).images
        with torch.no_grad():
            decoded = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
        return latents, pipeline.image_processor.postprocess(decoded, output_type="pt")

    return generate


def both(model: StableDiffusion, request: Request, steps: int) -> tuple[Tensor, Tensor]:
    done = finish(model, request, cloud_only(steps))
    latents = torch.cat([t.latents for t in done])
    return latents, model.decode(latents)


def assert_close(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.shape == other.shape
        assert (mine - other).abs().max() <= 1e-4


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_an_all_cloud_plan_equals_diffusers(
    scheduler: str, cloud_model: StableDiffusion, plain: Generate
) -> None:
    request = a_request(scheduler=scheduler)
    assert_close(both(cloud_model, request, 50), plain(request, 50))


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize(
    "changes",
    [
        {"negative_prompt": "blue fish"},
        {"guidance": 1.0},
        {"seeds": (7, 8)},
        {"height": 32, "width": 48},
        {"prompt": "a red house " * 9},  # longer than the text encoder reads
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_variations_equal_diffusers(
    scheduler: str, changes: dict[str, Any], cloud_model: StableDiffusion, plain: Generate
) -> None:
    request = a_request(scheduler=scheduler, **changes)
    assert_close(both(cloud_model, request, 5), plain(request, 5))


@pytest.mark.parametrize("steps", [1, 2, 14, 15])
def test_dpm_at_few_steps_equals_diffusers(
    steps: int, cloud_model: StableDiffusion, plain: Generate
) -> None:
    """Under 15 steps the solver lowers its order at the end."""
    request = a_request(scheduler="dpm++")
    assert_close(both(cloud_model, request, steps), plain(request, steps))


def test_the_edge_takes_its_own_unet_and_the_cloud_s_everything_else(
    pair_folder: Path, edge_model: StableDiffusion, cloud_model: StableDiffusion
) -> None:
    assert edge_model.unet.num_parameters() < cloud_model.unet.num_parameters()
    request = a_request()
    ours, theirs = edge_model.encode(request), cloud_model.encode(request)
    assert all(torch.equal(ours[name], theirs[name]) for name in ("prompt", "negative"))


def test_rows_of_a_network_call(cloud_model: StableDiffusion) -> None:
    with unet_rows(cloud_model) as rows:
        finish(cloud_model, a_request(seeds=(1, 2)), cloud_only(3))
        finish(cloud_model, a_request(seeds=(1, 2), guidance=1.0), cloud_only(3))
    assert rows == [4] * 3 + [2] * 3


def test_extrapolated_steps_make_no_network_call(cloud_model: StableDiffusion) -> None:
    plan = split(30, 30, 7, 2, 0.3)
    with unet_rows(cloud_model) as rows:
        finish(cloud_model, a_request(), plan)
    assert len(rows) == plan.counts().cloud_evaluated == 14


def whole_state(model: StableDiffusion, t: Trajectory) -> dict[str, Any]:
    """Everything that the rest of the run depends on."""
    tensors = dict(model.scheduler_state(t)) | {"latents": t.latents} | t.history._asdict()
    tensors |= {f"output {j}": x for j, x in enumerate(getattr(t.scheduler, "model_outputs", []))}
    cursor = getattr(t.scheduler, "step_index", t.step)
    order = min(getattr(t.scheduler, "lower_order_nums", 0), 1)  # 2M asks whether there is one
    counts = {"step": t.step, "cursor": cursor, "order": order, "seed": t.seed, "draws": t.draws}
    return tensors | counts


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        same = torch.equal(a[name], b[name]) if isinstance(a[name], Tensor) else a[name] == b[name]
        assert same, name


EVERYWHERE = {
    "one phase": split(50, 50, 7, 2, 0.3),
    "phases": Plan(
        50,
        (
            Phase("cloud", 20),
            Phase("cloud", 15, 2, 3, 0.5, "reuse"),
            Phase("cloud", 15, 3, 1, 0.5, guidance=2.0),
        ),
    ),
}


@pytest.mark.parametrize(
    ("plan", "scheduler"), [("one phase", name) for name in SCHEDULERS] + [("phases", "dpm++")]
)
def test_a_checkpoint_at_every_step_goes_on_bit_for_bit(
    plan: str, scheduler: str, cloud_model: StableDiffusion
) -> None:
    request = a_request(scheduler=scheduler)
    conditioning = cloud_model.encode(request)
    t = cloud_model.begin(request, EVERYWHERE[plan], 7, conditioning)
    payloads, states = [], []
    for _ in denoise(cloud_model, [t], 50):
        payloads.append(pack("checkpoint", PRINT, [snapshot(cloud_model, t)]))
        states.append(whole_state(cloud_model, t))

    def resume(step: int) -> Trajectory:
        (state,) = unpack(payloads[step - 1], PRINT).snapshots
        return cloud_model.begin(state.request, state.plan, state.seed, conditioning, state)

    for step in range(1, 50):
        resumed = resume(step)
        advance(cloud_model, [resumed])
        assert_same(whole_state(cloud_model, resumed), states[step])
    for step in (3, 8, 36):
        resumed = resume(step)
        for _ in denoise(cloud_model, [resumed], 50):
            pass
        assert_same(whole_state(cloud_model, resumed), states[-1])


def test_pictures_of_one_request_resume_together(cloud_model: StableDiffusion) -> None:
    request, plan = a_request(seeds=(3, 9), scheduler="dpm++"), split(20, 20, 4, 2, 0.3)
    conditioning = cloud_model.encode(request)
    together = [cloud_model.begin(request, plan, seed, conditioning) for seed in request.seeds]
    for _ in denoise(cloud_model, together, 9):
        pass
    data = pack("checkpoint", PRINT, [snapshot(cloud_model, t) for t in together])
    resumed = finish(cloud_model, request, plan, unpack(data, PRINT).snapshots)
    for _ in denoise(cloud_model, together, 20):
        pass
    for a, b in zip(resumed, together, strict=True):
        assert_same(whole_state(cloud_model, a), whole_state(cloud_model, b))


def test_an_extrapolating_edge_phase_resumes_too(
    cloud_model: StableDiffusion, edge_model: StableDiffusion
) -> None:
    request = a_request(scheduler="dpm++")
    plan = Plan(24, (Phase("cloud", 12, 3, 2, 0.3), Phase("edge", 12, 2, 2, 0.5)))
    (t,) = finish(cloud_model, request, plan)
    data = pack("handoff", PRINT, [snapshot(cloud_model, t)])
    (state,) = unpack(data, PRINT).snapshots
    conditioning = edge_model.encode(request)
    uncut = edge_model.begin(request, plan, 7, conditioning, state)
    for step in range(13, 24):
        advance(edge_model, [uncut])
        data = pack("checkpoint", PRINT, [snapshot(edge_model, uncut)])
        (state,) = unpack(data, PRINT).snapshots
        resumed = edge_model.begin(request, plan, 7, conditioning, state)
        ahead = edge_model.begin(request, plan, 7, conditioning, snapshot(edge_model, uncut))
        advance(edge_model, [resumed])
        advance(edge_model, [ahead])
        assert_same(whole_state(edge_model, resumed), whole_state(edge_model, ahead))
        assert resumed.step == step + 1


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_handoff_to_a_copy_of_the_model_equals_the_uncut_run(
    scheduler: str, pair: pairs.Pair, cloud_model: StableDiffusion
) -> None:
    copy = pairs.load(pair, "cloud", torch.device("cpu"), torch.float32)
    request = a_request(scheduler=scheduler)
    (uncut,) = finish(cloud_model, request, cloud_only(20))
    (t,) = finish(cloud_model, request, split(20, 12))
    data = pack("handoff", PRINT, [snapshot(cloud_model, t)])
    states = unpack(data, PRINT).snapshots
    (taken,) = finish(copy, request, split(20, 12), states)
    assert torch.equal(taken.latents, uncut.latents)
    forgetful = [replace(state, scheduler={}) for state in states]
    (other,) = finish(copy, request, split(20, 12), forgetful)
    assert torch.equal(other.latents, uncut.latents) == (scheduler != "dpm++")


def test_a_batch_equals_each_alone(cloud_model: StableDiffusion) -> None:
    """Members at other timesteps, guidances, schedulers and plans."""
    plans = {
        "ddim": split(12, 12, 3, 2, 0.5),
        "euler": cloud_only(9),
        "dpm++": Plan(10, (Phase("cloud", 4, guidance=2.0), Phase("cloud", 6, guidance=0.0))),
    }
    guidances = {"ddim": 7.5, "euler": 1.0, "dpm++": 3.0}
    members = []
    for seed, (scheduler, plan) in enumerate(plans.items()):
        request = a_request(scheduler=scheduler, guidance=guidances[scheduler], seeds=(seed,))
        members.append(cloud_model.begin(request, plan, seed, cloud_model.encode(request)))
    for lead in (0, 0, 0, 0, 2):  # the first goes ahead into its extrapolated steps
        advance(cloud_model, [members[lead]])
    assert len({m.step for m in members}) > 1
    while due := [m for m in members if not m.finished]:
        advance(cloud_model, due)
    for member in members:
        (alone,) = finish(cloud_model, member.request, member.plan)
        assert (member.latents - alone.latents).abs().max() <= 1e-4
        pictures = cloud_model.decode(torch.cat([member.latents, alone.latents]))
        assert (pictures[0] - pictures[1]).abs().max() <= 1e-4


@pytest.mark.parametrize("guidance", [0.0, 1.0, 1.5, 7.5])
def test_a_batch_of_one_is_exactly_the_guidance_formula(
    guidance: float, cloud_model: StableDiffusion
) -> None:
    request = a_request(guidance=guidance)
    conditioning = cloud_model.encode(request)
    t = cloud_model.begin(request, cloud_only(4), 7, conditioning)
    texts = [conditioning["prompt"]]
    if guidance > 1:
        texts.insert(0, conditioning["negative"])
    rows = len(texts)
    with torch.no_grad():
        noise = cloud_model.unet(
            torch.cat([t.latents] * rows), t.timestep, encoder_hidden_states=torch.cat(texts)
        ).sample
    eps = noise[:1] + guidance * (noise[1:] - noise[:1]) if guidance > 1 else noise
    assert torch.equal(cloud_model.predict([t]), eps)


def test_interleaved_trajectories_do_not_meet(cloud_model: StableDiffusion) -> None:
    def begin(seed: int, scheduler: str, plan: Plan) -> Trajectory:
        request = a_request(scheduler=scheduler, seeds=(seed,))
        return cloud_model.begin(request, plan, seed, cloud_model.encode(request))

    plan = split(7, 7, 3, 2, 0.5)
    for scheduler in SCHEDULERS:
        a, b = begin(1, scheduler, plan), begin(2, scheduler, cloud_only(7))
        for _ in range(7):
            advance(cloud_model, [a])
            advance(cloud_model, [b])
        for t in (a, b):
            (alone,) = finish(cloud_model, t.request, t.plan)
            assert torch.equal(t.latents, alone.latents)


def test_a_model_keeps_nothing_of_a_generation(cloud_model: StableDiffusion) -> None:
    before = {name: tensor.clone() for name, tensor in cloud_model.unet.state_dict().items()}
    request, plan = a_request(scheduler="dpm++"), split(20, 20, 7, 2, 0.3)
    (first,) = finish(cloud_model, request, plan)
    finish(cloud_model, a_request(seeds=(99,)), cloud_only(5))
    (second,) = finish(cloud_model, request, plan)
    assert torch.equal(first.latents, second.latents)
    after = cloud_model.unet.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@pytest.mark.parametrize(
    "changes",
    [{"seeds": (8,)}, {"prompt": "a blue fish"}, {"negative_prompt": "red"}, {"guidance": 3.0}],
    ids=lambda changes: next(iter(changes)),
)
def test_what_is_asked_for_matters(changes: dict[str, Any], cloud_model: StableDiffusion) -> None:
    """A tiny random model must still be one that can tell these apart."""
    (a,) = finish(cloud_model, a_request(), cloud_only(4))
    (b,) = finish(cloud_model, a_request(**changes), cloud_only(4))
    assert (a.latents - b.latents).abs().max() > 1e-3


def state_at(model: StableDiffusion, scheduler: str, step: int) -> Snapshot:
    request = a_request(scheduler=scheduler)
    t = model.begin(request, cloud_only(6), 7, model.encode(request))
    for _ in denoise(model, [t], step):
        pass
    return snapshot(model, t)


def test_a_state_of_another_shape_is_refused(cloud_model: StableDiffusion) -> None:
    state = state_at(cloud_model, "ddim", 2)
    for shape in ((1, 4, 8, 12), (1, 8, 8, 8), (1, 0, 8, 8), (2, 4, 8, 8)):
        with pytest.raises(PayloadError, match=r"\(1, 4, 8, 8\)"):
            cloud_model.begin(
                state.request, state.plan, 7, {}, replace(state, latents=torch.zeros(shape))
            )


def test_a_state_of_another_schedule_is_refused(
    tmp_path: Path, cloud_model: StableDiffusion
) -> None:
    folder = make_pair(tmp_path, timestep_spacing="trailing")
    other = pairs.load(pairs.resolve(str(folder)), "cloud", torch.device("cpu"), torch.float32)
    state = state_at(cloud_model, "ddim", 2)
    with pytest.raises(PairError, match="step 2 is timestep"):
        other.begin(state.request, state.plan, 7, {}, state)
    with pytest.raises(PairError, match="timestep None"):
        cloud_model.begin(state.request, state.plan, 7, {}, replace(state, timestep=None))


def test_a_history_of_another_scheduler_is_refused(cloud_model: StableDiffusion) -> None:
    state = state_at(cloud_model, "ddim", 2)
    history = state_at(cloud_model, "dpm++", 2).scheduler
    assert list(history) == ["x0-1"]
    with pytest.raises(PayloadError, match=r"x0-1.*DDIM"):
        cloud_model.begin(state.request, state.plan, 7, {}, replace(state, scheduler=history))
    state = state_at(cloud_model, "dpm++", 2)
    unknown = replace(state, scheduler={"x0-2": state.latents})
    with pytest.raises(PayloadError, match="x0-2"):
        cloud_model.begin(state.request, state.plan, 7, {}, unknown)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"height": 40, "width": 4096 + 4}, "width"), ({"height": 8, "width": 8}, None)],
)
def test_sizes(changes: dict[str, int], message: str | None, cloud_model: StableDiffusion) -> None:
    if message is None:
        (t,) = finish(cloud_model, a_request(**changes), cloud_only(2))
        assert cloud_model.decode(t.latents).shape == (1, 3, 8, 8)
        return
    with pytest.raises(InputError, match=message):
        finish(cloud_model, a_request(**changes), cloud_only(2))


def test_members_of_one_call_have_one_size(cloud_model: StableDiffusion) -> None:
    requests = [a_request(), a_request(width=48)]
    members = [cloud_model.begin(r, cloud_only(2), 7, cloud_model.encode(r)) for r in requests]
    with pytest.raises(InputError, match="one size"):
        cloud_model.predict(members)


@pytest.mark.parametrize("steps", [1000, 1001, 5000])
def test_more_steps_than_the_model_was_trained_on(steps: int, cloud_model: StableDiffusion) -> None:
    with pytest.raises(InputError, match=f"{steps} steps"):
        cloud_model.begin(a_request(), cloud_only(steps), 7, {})


def test_a_vae_that_overflows_is_told(cloud_model: StableDiffusion) -> None:
    with pytest.raises(NonFiniteError, match="VAE"):
        cloud_model.decode(torch.full((1, 4, 8, 8), float("nan")))


def test_decoded_pictures_lie_in_0_to_1(cloud_model: StableDiffusion) -> None:
    pictures = cloud_model.decode(100 * torch.randn(2, 4, 8, 12))
    assert pictures.shape == (2, 3, 32, 48)
    assert pictures.dtype == torch.float32
    assert pictures.min() >= 0
    assert pictures.max() <= 1


def test_half_precision_runs_and_stays_in_its_dtype(pair: pairs.Pair) -> None:
    model = pairs.load(pair, "cloud", torch.device("cpu"), torch.bfloat16)
    for scheduler in SCHEDULERS:
        (t,) = finish(model, a_request(scheduler=scheduler), split(8, 8, 3, 2, 0.3))
        assert t.latents.isfinite().all()
        assert model.decode(t.latents).dtype == torch.float32


@pytest.mark.parametrize("missing", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_part_is_named(missing: str, pair_folder: Path, tmp_path: Path) -> None:
    for part in (pair_folder / "cloud").iterdir():
        if part.name != missing:
            (tmp_path / part.name).symlink_to(part)
    loader = Loader(Side(Source(str(tmp_path))), torch.device("cpu"), torch.float32)
    with pytest.raises(PairError, match=missing):
        sd.load(loader, frozenset({"text", "vae"}))


def test_an_edge_only_plan_is_the_edge_model_alone(
    cloud_model: StableDiffusion, edge_model: StableDiffusion
) -> None:
    families = {"cloud": cloud_model, "edge": edge_model}
    (alone,) = finish(edge_model, a_request(), cloud_only(6))
    with unet_rows(cloud_model) as rows:
        assert torch.equal(run_plan(families, a_request(), edge_only(6)), alone.latents)
    assert rows == []
