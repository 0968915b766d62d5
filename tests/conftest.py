"""A tiny pair with random weights, of the real classes, in the layout of a real folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

WORDS = ["a", "big", "red", "house", "snow", "in", "the", "blue", "fish"]


def make_pair(folder: Path, seed: int = 0, **scheduler: object) -> Path:
    """Write `cloud/` and `edge/` under `folder`: 32x32 pictures, 8x8x4 latents."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(seed)

    def unet(layers: int) -> UNet2DConditionModel:
        return UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=(8, 16),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=layers,
            cross_attention_dim=16,
            attention_head_dim=4,
            norm_num_groups=4,
        )

    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    tokens = letters + [letter + "</w>" for letter in letters]
    vocabulary = {t: i for i, t in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=16)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=16,
            bos_token_id=vocabulary["<|startoftext|>"],
            eos_token_id=vocabulary["<|endoftext|>"],
        )
    )
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=32,
        scaling_factor=0.5,
    )
    settings: dict[str, object] = {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
    unet(2).save_pretrained(folder / "cloud" / "unet")
    unet(1).save_pretrained(folder / "edge" / "unet")
    text.save_pretrained(folder / "cloud" / "text_encoder")
    tokenizer.save_pretrained(folder / "cloud" / "tokenizer")
    vae.save_pretrained(folder / "cloud" / "vae")
    DDIMScheduler(**(settings | scheduler)).save_pretrained(folder / "cloud" / "scheduler")
    (folder / "cloud" / "model_index.json").write_text(
        """{
  "_class_name": "StableDiffusionPipeline",
  "feature_extractor": [null, null],
  "image_encoder": [null, null],
  "requires_safety_checker": false,
  "safety_checker": [null, null],
  "scheduler": ["diffusers", "DDIMScheduler"],
  "text_encoder": ["transformers", "CLIPTextModel"],
  "tokenizer": ["transformers", "CLIPTokenizer"],
  "unet": ["diffusers", "UNet2DConditionModel"],
  "vae": ["diffusers", "AutoencoderKL"]
}
"""
    )
    return folder


@pytest.fixture(scope="session")
def pair_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pair(tmp_path_factory.mktemp("tiny"))
