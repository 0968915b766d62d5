"""The handoff from one latent scale to another, with CogVideoX 5B's and 2B's real schedules."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import a_request, finish
from tiny import CLOUD_SCALE, COGVIDEOX_SCHEDULE, EDGE_SCALE, make_cogvideox_pair

from ecdiff import pairs
from ecdiff.errors import InputError, PayloadError
from ecdiff.families import schedulers
from ecdiff.families.conversion import Conversion
from ecdiff.pairs import Pair
from ecdiff.plan import cloud_only, split
from ecdiff.relay import leave
from ecdiff.trajectory import Snapshot, Trajectory, advance, snapshot

STEPS = 50
EDGE_CONFIG = COGVIDEOX_SCHEDULE | {"snr_shift_scale": EDGE_SCALE[1]}
TO_EDGE = Conversion("cogvideox", EDGE_CONFIG, EDGE_SCALE[0] / CLOUD_SCALE[0])
DDIM = schedulers.COGVIDEOX_CLASSES["ddim"]


def scheduler(shift: float) -> Any:
    return schedulers.make_scheduler(DDIM, COGVIDEOX_SCHEDULE | {"snr_shift_scale": shift}, STEPS)


def at(step: int, handoff: str) -> tuple[Trajectory, torch.Tensor]:
    """A cloud trajectory before `step` of a known clip, and what the edge's latents are there."""
    g = torch.Generator().manual_seed(step)
    clean, eps = torch.randn((2, 1, 3, 4, 8, 8), generator=g, dtype=torch.float64)
    cloud, edge = scheduler(CLOUD_SCALE[1]), scheduler(EDGE_SCALE[1])

    def noised(own: Any, scale: float) -> torch.Tensor:
        abar = schedulers.alpha_bar(own, step).double()
        return abar.sqrt() * scale * clean + (1 - abar).sqrt() * eps

    request = a_request(frames=9, handoff=handoff)
    t = Trajectory(request, split(STEPS, step), 7, {}, cloud, noised(cloud, CLOUD_SCALE[0]), step)
    t.parting = (CLOUD_SCALE[0] * clean, eps)
    return t, noised(edge, EDGE_SCALE[0])


def converted(t: Trajectory) -> torch.Tensor:
    return TO_EDGE.latents(t.request, t, t.latents)


def error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((got - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("step", range(1, STEPS))
def test_renoise_is_the_edge_s_own_latent(step: int) -> None:
    t, wanted = at(step, "renoise")
    assert float(schedulers.alpha_bar(scheduler(EDGE_SCALE[1]), step)) > 0
    assert (converted(t) - wanted).abs().max() <= 1e-5
    x0, eps = t.parting or (None, None)
    edge = scheduler(EDGE_SCALE[1])  # and diffusers' own arithmetic says the same
    theirs = edge.add_noise(x0 * TO_EDGE.ratio, eps, edge.timesteps[step : step + 1])
    assert (theirs - wanted).abs().max() <= 1e-5


def test_how_far_off_the_other_two_are() -> None:
    print("\nstep  rescale   paper")
    for step in (10, 20, 30, 38, 45):
        errors = [error(converted(t), wanted) for t, wanted in (at(step, m) for m in MODES)]
        print(f"{step:4d}  {100 * errors[0]:6.1f} %  {100 * errors[1]:5.1f} %")
        assert 1e-3 < errors[0] < errors[1]
        if step == 38:
            assert errors == pytest.approx([0.03, 0.24], abs=0.01)


MODES = ("rescale", "paper")


def test_x0_histories_change_scale() -> None:
    t, _ = at(20, "renoise")
    x0 = torch.randn(1, 3, 4, 8, 8)
    state = Snapshot(t.request, t.plan, 7, 20, 500.0, t.latents, scheduler={"x0-1": x0})
    assert torch.allclose(TO_EDGE(t, state).scheduler["x0-1"], EDGE_SCALE[0] / CLOUD_SCALE[0] * x0)


def test_a_finished_clip_changes_scale_only() -> None:
    t, _ = at(20, "paper")
    t.plan, t.step = cloud_only(STEPS), STEPS
    assert torch.equal(converted(t), t.latents * TO_EDGE.ratio)


def test_what_cannot_be_converted_is_refused() -> None:
    t, _ = at(20, "renoise")
    t.parting = None
    with pytest.raises(PayloadError, match="x0"):
        converted(t)
    t.request = a_request(scheduler="euler")
    with pytest.raises(InputError, match="euler"):
        converted(t)
    with pytest.raises(InputError, match="'copy'"):
        a_request(handoff="copy")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return pairs.resolve(str(make_cogvideox_pair(tmp_path_factory.mktemp("video"))))


def test_a_cloud_only_clip_looks_the_same_at_the_edge(video: Pair) -> None:
    """Both sides have one VAE, under two scaling factors."""
    cpu = torch.device("cpu")
    cloud, edge = (pairs.load(video, site, cpu, torch.float32) for site in ("cloud", "edge"))
    (t,) = finish(cloud, a_request(frames=9), cloud_only(4))
    taken = leave(cloud, t, pairs.conversion(video, "cloud"))
    assert (edge.decode(taken.latents) - cloud.decode(t.latents)).abs().max() <= 1e-4
    back = pairs.conversion(video, "edge")
    assert back is not None
    assert back.ratio == pytest.approx(CLOUD_SCALE[0] / EDGE_SCALE[0])


def test_one_step_s_estimate_is_renoised_exactly(video: Pair) -> None:
    """With the network's own x0 and eps, DDIM's next latent at the cloud's abar is the cloud's."""
    cloud = pairs.load(video, "cloud", torch.device("cpu"), torch.float32)
    (t,) = finish(cloud, a_request(frames=9), split(12, 7))
    assert t.parting is not None
    x0, eps = t.parting
    abar = schedulers.alpha_bar(t.scheduler, 7)
    assert torch.allclose(abar.sqrt() * x0 + (1 - abar).sqrt() * eps, t.latents, atol=1e-5)


def test_pairs_of_one_scale_convert_nothing(pair: Pair) -> None:
    assert pairs.conversion(pair, "cloud") is None
    assert pairs.conversion(pair, "edge") is None


@pytest.mark.parametrize("step", [3, 12, 30, 48])
def test_dpm_goes_on_as_if_the_history_were_the_edge_s_own(
    step: int, video: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks that know the clip: the edge's second-order update sees no jump in x0."""
    cpu = torch.device("cpu")
    cloud, edge = (pairs.load(video, site, cpu, torch.float32) for site in ("cloud", "edge"))
    clean = torch.randn(1, 3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    scales = {id(cloud): CLOUD_SCALE[0], id(edge): EDGE_SCALE[0]}

    def knowing(self: Any, trajectories: list[Trajectory]) -> torch.Tensor:
        """The v of the trajectory's latents, were they of the clip in this model's scale."""
        (t,) = trajectories
        abar = schedulers.alpha_bar(t.scheduler, t.step)
        x0 = scales[id(self)] * clean
        return (abar.sqrt() * t.latents - x0) / (1 - abar).sqrt()

    monkeypatch.setattr(type(cloud), "predict", knowing)
    request = a_request(frames=9, scheduler="dpm")
    plan = split(STEPS, step)
    (t,) = finish(cloud, request, plan)
    convert = pairs.conversion(video, "cloud")
    state = leave(cloud, t, convert)
    assert torch.allclose(state.scheduler["x0-1"], EDGE_SCALE[0] * clean, atol=1e-4)
    conditioning = edge.encode(request)

    def first_step(history: dict[str, torch.Tensor]) -> torch.Tensor:
        began = edge.begin(request, plan, 7, conditioning, replace(state, scheduler=history))
        began.generator.manual_seed(0)  # type: ignore[union-attr]
        advance(edge, [began])
        return began.latents

    got = first_step(dict(state.scheduler))
    assert torch.allclose(got, first_step({"x0-1": EDGE_SCALE[0] * clean}), atol=1e-4)
    unscaled = snapshot(cloud, t).scheduler
    assert not torch.allclose(got, first_step(dict(unscaled)), atol=1e-3)
    (ended,) = finish(edge, request, plan, [state])
    assert torch.allclose(ended.latents, EDGE_SCALE[0] * clean, atol=1e-3)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", ["ddim", "euler", "dpm++", "lcm", "cogvideox dpm"])
def test_an_estimate_and_its_output_are_inverse(kind: str, name: str, pair: Pair) -> None:
    model = pairs.load(pair, "cloud", torch.device("cpu"), torch.float32)
    config = dict(model.scheduler_config) | {"prediction_type": kind}  # type: ignore[attr-defined]
    kinds = schedulers.IMAGE_CLASSES | {"cogvideox dpm": schedulers.COGVIDEOX_CLASSES["dpm"]}
    own = schedulers.make_scheduler(kinds[name], config, 10)
    schedulers.place_at(own, 6, {}, torch.device("cpu"))
    t = SimpleNamespace(scheduler=own, step=6, timestep=own.timesteps[6])
    t.latents = torch.randn(1, 4, 8, 8) * own.init_noise_sigma
    output = torch.randn(1, 4, 8, 8)
    x0, eps = schedulers.estimate(t, output)  # type: ignore[arg-type]
    abar = schedulers.alpha_bar(own, 6)
    x = own.scale_model_input(t.latents, t.timestep)
    assert torch.allclose(abar.sqrt() * x0 + (1 - abar).sqrt() * eps, x, atol=1e-4)
    assert torch.allclose(schedulers.output_for(t, eps), output, atol=1e-4)  # type: ignore[arg-type]
