from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import a_request, finish, running
from diffusers import CogVideoXPipeline
from same import check_batch, check_checkpoints
from tiny import load, make_cogvideox_pair

from ecdiff import EdgeCloudPipeline, pairs
from ecdiff.errors import InputError, PairError, PayloadError
from ecdiff.families import cogvideox
from ecdiff.families.cogvideox import CogVideoX
from ecdiff.pairs import Pair
from ecdiff.plan import Phase, Plan, cloud_only
from ecdiff.request import Request
from ecdiff.trajectory import advance, denoise, snapshot

SCHEDULERS = tuple(CogVideoX.schedulers)


def clip(**changes: Any) -> Request:
    return a_request(**({"frames": 9, "guidance": 6.0} | changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cogvideox_pair(tmp_path_factory.mktemp("video"))


@pytest.fixture(scope="module")
def video(folder: Path) -> Pair:
    return pairs.resolve(str(folder))


@pytest.fixture(scope="module", params=["cloud", "edge"])
def site(request: pytest.FixtureRequest) -> str:
    """The cloud has rotary positions, as 5B has; the edge has none, as 2B."""
    return str(request.param)


@pytest.fixture(scope="module")
def model(folder: Path) -> CogVideoX:
    model: CogVideoX = load(cogvideox, folder / "cloud")
    return model


def plain(folder: Path, request: Request, steps: int) -> torch.Tensor:
    """diffusers' own clips [B, F, 3, H, W] in [0, 1]."""
    pipeline = CogVideoXPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    kind = CogVideoX.schedulers[request.scheduler]
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config)
    return pipeline(
        request.prompt,
        negative_prompt=request.negative_prompt or None,
        height=request.height,
        width=request.width,
        num_frames=request.frames,
        num_inference_steps=steps,
        guidance_scale=request.guidance,
        use_dynamic_cfg=request.dynamic_guidance,
        num_videos_per_prompt=1,
        generator=[torch.Generator().manual_seed(seed) for seed in request.seeds],
        output_type="pt",
        max_sequence_length=12,
    ).frames


def assert_equal_to_diffusers(folder: Path, request: Request, steps: int) -> None:
    model = load(cogvideox, folder)
    done = finish(model, request, cloud_only(steps))
    mine, theirs = model.decode(torch.cat([t.latents for t in done])), plain(folder, request, steps)
    assert mine.shape == theirs.shape
    assert mine.shape[1] == request.frames
    assert (mine - theirs).abs().max() <= 1e-4


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_an_all_cloud_plan_equals_diffusers(scheduler: str, site: str, folder: Path) -> None:
    assert_equal_to_diffusers(folder / site, clip(scheduler=scheduler), 20)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize(
    "changes",
    [
        {"negative_prompt": "blue fish"},
        {"guidance": 1.0},
        {"height": 48, "width": 16},
        {"frames": 1},
        {"dynamic_guidance": True},
    ],
    ids=lambda changes: "-".join(f"{name}-{value}" for name, value in changes.items()),
)
def test_variations_equal_diffusers(
    changes: dict[str, Any], scheduler: str, site: str, folder: Path
) -> None:
    assert_equal_to_diffusers(folder / site, clip(scheduler=scheduler, **changes), 3)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_checkpoint_at_every_step_goes_on_bit_for_bit(scheduler: str, model: CogVideoX) -> None:
    check_checkpoints(model, clip(scheduler=scheduler), draws=scheduler == "dpm")


def test_steps_that_do_not_divide_the_schedule_count_their_draws(model: CogVideoX) -> None:
    """With 7 steps the last timestep has one before it: DPM draws twice there too."""
    request = clip(scheduler="dpm")
    (whole,) = finish(model, request, cloud_only(7))
    conditioning = model.encode(request)
    t = model.begin(request, cloud_only(7), 7, conditioning)
    for _ in range(6):
        advance(model, [t])
        t = model.begin(request, cloud_only(7), 7, conditioning, snapshot(model, t))
    advance(model, [t])
    assert torch.equal(t.latents, whole.latents)
    assert t.draws == whole.draws


def test_a_batch_equals_each_alone(model: CogVideoX) -> None:
    guidances = [7.5, 1.0, 3.0, 5.0]
    schedulers = [*SCHEDULERS, *SCHEDULERS]
    requests = [
        clip(scheduler=scheduler, guidance=g, seeds=(j,))
        for j, (scheduler, g) in enumerate(zip(schedulers, guidances, strict=True))
    ]
    check_batch(model, requests)


def test_rows_of_a_network_call(model: CogVideoX) -> None:
    rows = []
    hook = model.network.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["hidden_states"])), with_kwargs=True
    )
    finish(model, clip(seeds=(1, 2)), cloud_only(1))
    finish(model, clip(seeds=(1, 2), guidance=1.0), cloud_only(1))
    hook.remove()
    assert rows == [4, 2]


def test_epsilon_is_extrapolated_where_the_phase_says_so(model: CogVideoX) -> None:
    """The last two noises are remembered as epsilon; from there on epsilon, not v, is linear."""
    request = clip()
    plan = Plan(12, (Phase("cloud", 12, 3, 8, 1.0, space="epsilon"),))
    t = model.begin(request, plan, 7, model.encode(request))
    for _ in denoise(model, [t], 3):
        pass
    past, gradient = t.history
    assert past is not None
    assert gradient is not None
    for i in range(1, 6):
        noise = model.output_for(t, past + i * gradient)
        assert torch.allclose(model.estimate(t, noise)[1], past + i * gradient, atol=1e-4)
        before = t.latents
        advance(model, [t])
        assert t.history.noise is not None
        assert torch.allclose(t.history.noise, past + i * gradient, atol=1e-4)
        assert not torch.equal(before, t.latents)
    v = Plan(12, (Phase("cloud", 12, 3, 8, 1.0),))
    (other,) = finish(model, request, v)
    (this,) = finish(model, request, plan)
    assert not torch.allclose(this.latents, other.latents, atol=1e-3)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("handoff", ["renoise", "rescale", "paper"])
def test_over_the_socket_equals_in_process(scheduler: str, handoff: str, video: Pair) -> None:
    options = {
        "num_inference_steps": 10, "warmup": 3, "skip": 2, "handoff_step": 6, "seed": 3,
        "scheduler": scheduler, "handoff": handoff, "output_type": "pt",
    }  # fmt: skip
    near = EdgeCloudPipeline.from_pretrained(video)("a red house", **options)
    with running(video) as server:
        far = EdgeCloudPipeline.from_pretrained(video, server.ws)("a red house", **options)
    assert near.images.shape == (1, 9, 3, 32, 32)
    assert torch.equal(near.images, far.images)
    assert far.receipt.to_json()["handoff"] == handoff
    assert far.receipt.bytes.received > 2 * 12 * 16 * 4  # the encoded prompt came along


def test_the_edge_needs_no_t5(video: Pair, folder: Path, tmp_path: Path) -> None:
    """Nothing of it is loaded, nor looked for, unless the edge draws alone."""
    for part in (folder / "edge").iterdir():
        if part.name not in ("text_encoder", "tokenizer"):
            (tmp_path / part.name).symlink_to(part)
    text = (
        (folder / "pair.toml").read_text().replace('model = "cloud"', f'model = "{folder}/cloud"')
    )
    (tmp_path / "pair.toml").write_text(text.replace('model = "edge"', 'model = "."'))
    pipe = EdgeCloudPipeline.from_pretrained(str(tmp_path / "pair.toml"))
    plan = {"num_inference_steps": 4, "handoff_step": 2, "method": "hybrid-sd"}
    assert len(pipe("a fish", seed=1, **plan).images[0]) == 9
    with pytest.raises(PairError, match="text_encoder"):
        pipe("a fish", seed=1, num_inference_steps=4, method="edge")


def test_an_encoded_prompt_of_another_model_is_refused(model: CogVideoX) -> None:
    right = dict(model.encode(clip()))
    for wrong in ({}, {"prompt": torch.zeros(1, 12, 8)}, {"negative": torch.zeros(1, 5, 16)}):
        given = right | wrong if wrong else {"other": torch.zeros(1, 4)}
        with pytest.raises(PayloadError, match="encoded"):
            model.begin(clip(), cloud_only(2), 7, given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scheduler": "euler"}, "'euler' is not for this model: use ddim or dpm"),
        ({"frames": 10}, r"frames is 10: this model draws 1, 9, 17, \.\.\. up to 9"),
        ({"frames": 5}, "frames is 5"),
        ({"frames": 17}, "up to 9"),
        ({"frames": None}, "say how many"),
    ],
)
def test_what_it_cannot_draw_is_refused(
    changes: dict[str, Any], message: str, model: CogVideoX
) -> None:
    with pytest.raises(InputError, match=message):
        model.begin(clip(**changes), cloud_only(10), 7, {})


def test_a_size_that_the_patches_cannot_cover_is_refused(model: CogVideoX) -> None:
    coarser = replace(model, vae_factor=8)  # as the real models are
    message = "height is 40: this model needs a multiple of 16, such as 32"
    with pytest.raises(InputError, match=message):
        coarser.latent_shape(clip(height=40))


def test_cogvideox_1_5_is_refused(folder: Path, tmp_path: Path) -> None:
    for part in (folder / "cloud").iterdir():
        if part.name != "transformer":
            (tmp_path / part.name).symlink_to(part)
    from diffusers import CogVideoXTransformer3DModel

    CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4,
        time_embed_dim=8, text_embed_dim=16, num_layers=1, sample_width=8, sample_height=8,
        sample_frames=9, patch_size=2, patch_size_t=2, max_text_seq_length=12,
        use_rotary_positional_embeddings=True, patch_bias=False,
    ).save_pretrained(tmp_path / "transformer")  # fmt: skip
    with pytest.raises(PairError, match=r"1\.5"):
        load(cogvideox, tmp_path)
