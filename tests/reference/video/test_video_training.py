"""Training the video pair: a killed run goes on as if nothing had happened."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX

from ecdiff.reference.runs import Budget, RunConfig
from ecdiff.reference.video import pair as training
from ecdiff.reference.video.classifier import HEADS, Classifier, labels
from ecdiff.reference.video.clips import held_out_clips
from ecdiff.reference.video.data import cached_latents, clip_batch
from ecdiff.reference.video.models import (
    new_cloud,
    new_text_encoder,
    new_tokenizer,
    new_vae,
)

CLIPS = 4


@pytest.fixture(scope="module")
def vae() -> AutoencoderKLCogVideoX:
    torch.manual_seed(0)
    return new_vae()


def _pair(vae: AutoencoderKLCogVideoX) -> training.Pair:
    torch.manual_seed(0)
    tokenizer = new_tokenizer()
    return training.Pair(vae, new_text_encoder(tokenizer), tokenizer, new_cloud())


def test_a_killed_run_resumes_where_it_was(
    vae: AutoencoderKLCogVideoX, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_draw", lambda *_: None)  # a minute's sampling
    config = RunConfig(
        tmp_path / "whole", Budget(samples=6), batch=2, warmup_steps=2, checkpoint_seconds=0
    )
    whole = _pair(vae)
    training.train_cloud(config, whole, CLIPS, lambda: None)

    draws, draw_batch = [], training.draw_batch

    def killed_at_the_second(*args: object) -> training.Batch:
        draws.append(args)
        if len(draws) == 2:
            raise KeyboardInterrupt
        return draw_batch(*args)  # type: ignore[arg-type]

    config = replace(config, out=tmp_path / "parts")
    monkeypatch.setattr(training, "draw_batch", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        training.train_cloud(config, _pair(vae), CLIPS, lambda: None)
    monkeypatch.setattr(training, "draw_batch", draw_batch)
    parts = _pair(vae)
    training.train_cloud(replace(config, resume=True), parts, CLIPS, lambda: None)
    for a, b in zip(whole.cloud.parameters(), parts.cloud.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(whole.text_encoder.parameters(), parts.text_encoder.parameters(), strict=True):
        assert torch.equal(a, b)


def test_cached_latents_are_made_once_for_one_encoder(
    vae: AutoencoderKLCogVideoX, tmp_path: Path
) -> None:
    vae = deepcopy(vae)
    made = cached_latents(vae, CLIPS, tmp_path)
    [file] = tmp_path.glob("*.pt")
    before = file.stat().st_mtime_ns
    assert torch.equal(cached_latents(vae, CLIPS, tmp_path), made)
    assert file.stat().st_mtime_ns == before
    vae.encoder.conv_out.conv.weight.data += 0.01
    assert not torch.equal(cached_latents(vae, CLIPS, tmp_path), made)
    assert len(list(tmp_path.glob("*.pt"))) == 2


def test_the_judge_is_asked_for_what_the_clip_shows() -> None:
    clips = held_out_clips(10)
    wanted = labels(clips)
    for i, clip in enumerate(clips):
        truth = (clip.what, clip.colour, clip.motion, clip.background)
        assert tuple(HEADS[h][int(wanted[h][i])] for h in HEADS) == truth


@torch.no_grad()
def test_only_the_motion_depends_on_the_frames_order() -> None:
    torch.manual_seed(0)
    judge = Classifier().eval()
    x = clip_batch(held_out_clips(4))
    ahead, back = judge(x), judge(x.flip(2))
    for head in HEADS:
        assert torch.allclose(ahead[head], back[head], atol=1e-4) == (head != "motion")
