"""The video pair's evaluation draws with the product, at both latent scales."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ecdiff.edge.pipeline import EdgeCloudPipeline
from ecdiff.plan import cloud_only, edge_only, split
from ecdiff.reference.video import models
from ecdiff.reference.video.clips import caption, held_out_clips
from ecdiff.reference.video.evaluate import draw, video_pair
from ecdiff.request import HANDOFFS

CLIPS = held_out_clips(2)
STEPS = 4


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained, but with what an untrained network keeps at zero made to say something."""
    folder = tmp_path_factory.mktemp("video")
    torch.manual_seed(0)
    vae, tokenizer = models.new_vae().eval(), models.new_tokenizer()
    text_encoder, cloud = models.new_text_encoder(tokenizer).eval(), models.new_cloud().eval()
    for parameter in cloud.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    networks = {"cloud": cloud, "edge": models.edge_from_cloud(cloud).eval()}
    for site in models.SITES:
        pipe = models.pipeline(site, vae, text_encoder, tokenizer, networks[site])
        models.save(pipe, folder / site)
    return folder


@pytest.fixture(scope="module")
def pipe(weights: Path) -> EdgeCloudPipeline:
    return EdgeCloudPipeline.from_pretrained(video_pair(weights))


@pytest.mark.parametrize("site", models.SITES)
def test_each_site_alone_is_the_stock_pipeline(
    site: str, weights: Path, pipe: EdgeCloudPipeline
) -> None:
    """The cloud's clip is decoded at the edge, whose latents have another scale."""
    plan = cloud_only(STEPS) if site == "cloud" else edge_only(STEPS)
    ours = draw(pipe, CLIPS, plan, 3.0, "renoise")
    stock = models.load_pipeline(weights, "cloud" if site == "cloud" else "edge")
    wanted = models.draw(stock, [caption(clip) for clip in CLIPS], 3.0, STEPS)
    assert (ours - wanted).abs().max() < 2e-3


def test_the_kinds_of_handoff_differ_on_this_pair(pipe: EdgeCloudPipeline) -> None:
    clips = [draw(pipe, CLIPS[:1], split(STEPS, 2), 3.0, handoff) for handoff in HANDOFFS]
    for i, one in enumerate(clips):
        assert one.shape == (1, 3, 9, 64, 64)
        assert all(not torch.equal(one, other) for other in clips[:i])
