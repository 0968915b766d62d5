"""FID and CLIP score with small networks of the real kinds."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor, nn

from ecdiff.errors import InputError
from ecdiff.quality import clip_score, fid

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


class Means(nn.Module):
    """A stand-in for Inception: each channel's mean and spread."""

    def forward(self, x: Tensor, return_features: bool = True) -> Tensor:
        x = x.float().flatten(2) / 255
        return torch.cat([x.mean(2), x.std(2)], 1)


@pytest.fixture
def network(tmp_path: Path) -> Path:
    path = tmp_path / "network.pt"
    torch.jit.script(Means()).save(str(path))
    return path


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """|mu - nu|^2 + tr(A + B - 2 (AB)^(1/2)), as it is written."""
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = sqrtm(cov_a @ cov_b).real
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root))


def test_fid_is_the_frechet_distance_of_the_features(network: Path) -> None:
    g = torch.Generator().manual_seed(0)
    shade = torch.rand((40, 3, 1, 1), generator=g)
    a = (shade * torch.rand((40, 3, 24, 24), generator=g)).clamp(0, 1)
    b = torch.rand((40, 3, 24, 24), generator=g)
    features = [Means()((x * 255).round()).double().numpy() for x in (a, b)]
    assert fid(a, b, network) == pytest.approx(frechet(*features), rel=1e-3)
    assert fid(a, a, network) == pytest.approx(0, abs=1e-4)


def test_fid_says_what_is_missing(tmp_path: Path, network: Path) -> None:
    pictures = torch.rand(2, 3, 16, 16)
    with pytest.raises(InputError, match=r"save https://.*inception"):
        fid(pictures, pictures, tmp_path / "none.pt")
    with pytest.raises(InputError, match="at least 2"):
        fid(pictures[:1], pictures, network)
    with pytest.raises(InputError, match="N, 3, H, W"):
        fid(pictures[:, :1], pictures, network)
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(InputError, match="no TorchScript network"):
        fid(pictures, pictures, tmp_path / "text.pt")


def test_fid_without_the_extra(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    pictures = torch.rand(2, 3, 16, 16)
    with pytest.raises(InputError, match=r"ecdiff\[metrics\]"):
        fid(pictures, pictures, network)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP model with random weights in the layout of a real folder."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    vocabulary = {t: i for i, t in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=16).save_pretrained(folder)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    text = {
        **size, "num_hidden_layers": 1, "vocab_size": len(vocabulary),
        "max_position_embeddings": 16, "bos_token_id": vocabulary["<|startoftext|>"],
        "eos_token_id": vocabulary["<|endoftext|>"],
    }  # fmt: skip
    vision = {**size, "num_hidden_layers": 1, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    model.save_pretrained(folder)
    side = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=side).save_pretrained(folder)
    return folder


def test_clip_score_depends_on_picture_and_prompt_alone(clip: Path) -> None:
    pictures = torch.rand((3, 3, 48, 40), generator=torch.Generator().manual_seed(0))
    prompts = ["a red house", "a fish", "a blue fish in the snow"]
    scores = clip_score(pictures, prompts, str(clip))
    assert scores.shape == (3,)
    assert ((scores >= 0) & (scores <= 100)).all()
    for i in range(3):
        alone = clip_score(pictures[i : i + 1], prompts[i : i + 1], str(clip))
        assert alone.item() == pytest.approx(scores[i].item(), abs=1e-2)
    assert len(set(scores.tolist())) > 1


def test_clip_score_says_what_is_wrong(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one each"):
        clip_score(torch.rand(2, 3, 32, 32), ["a fish"], str(clip))
    with pytest.raises(InputError, match="cannot load the CLIP model"):
        clip_score(torch.rand(1, 3, 32, 32), ["a fish"], str(tmp_path / "none"))
