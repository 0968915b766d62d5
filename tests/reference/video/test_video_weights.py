"""The shipped pair of clips: stock folders, small, and what it draws is what it was told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from diffusers import CogVideoXPipeline

import ecdiff
from ecdiff.reference.video.classifier import HEADS, correct, load_classifier
from ecdiff.reference.video.clips import held_out_clips
from ecdiff.reference.video.data import clip_batch
from ecdiff.reference.video.models import SCALE_RATIO, SITES, WEIGHTS


def test_both_sides_load_with_stock_diffusers_at_two_scales() -> None:
    pipes = {site: CogVideoXPipeline.from_pretrained(WEIGHTS / site) for site in SITES}
    scales = {site: pipe.vae.config.scaling_factor for site, pipe in pipes.items()}
    assert scales["cloud"] / scales["edge"] == pytest.approx(SCALE_RATIO)
    shifts = {site: pipe.scheduler.config.snr_shift_scale for site, pipe in pipes.items()}
    assert shifts["cloud"] != shifts["edge"]


def test_the_judge_reads_rendered_clips() -> None:
    clips = held_out_clips(40)
    right = correct(load_classifier(WEIGHTS), clip_batch(clips), clips)
    for head in HEADS:
        assert float(right[head].float().mean()) >= 0.9, head


def test_the_readme_command_draws_what_it_says_offline(tmp_path: Path) -> None:
    """A red thing on a plain wall, whose middle moves right."""
    out = tmp_path / "clip.mp4"
    words = [
        "generate",
        "a red circle moving right",
        "--pair",
        "reference-video",
        "--out",
        str(out),
    ]
    env = os.environ | {
        "PYTHONPATH": str(Path(ecdiff.__file__).parents[1]),
        "HF_HUB_OFFLINE": "1",
        "HTTPS_PROXY": "http://127.0.0.1:9",
    }
    done = subprocess.run([sys.executable, "-m", "ecdiff", *words], env=env, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    with av.open(str(out)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    frames = torch.from_numpy(np.stack(pictures)).float()
    assert frames.shape == (9, 64, 64, 3)
    red = (frames[..., 0] - frames[..., 1:].amax(-1) - 40).clamp(min=0)
    places = (red.sum(1) * torch.arange(64)).sum(1) / red.sum((1, 2)).clamp(min=1)
    assert red.flatten(1).count_nonzero(1).min() > 20
    assert places[-1] - places[0] > 10
    assert (places.diff() > -2).all()
