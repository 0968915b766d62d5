"""Tiny pairs of the larger families, of the real classes and laid out as the real repositories.

Each writes `cloud/`, a whole pipeline, `edge/`, another, and `pair.toml`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from conftest import WORDS, make_pair
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXTransformer3DModel,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from ecdiff.families.loading import Loader
from ecdiff.sources import Side, Source

COGVIDEOX_SCHEDULE: dict[str, Any] = {  # both real models'; they differ in snr_shift_scale
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "set_alpha_to_one": True,
    "clip_sample": False,
    "steps_offset": 0,
}
CLOUD_SCALE, EDGE_SCALE = (0.7, 1.0), (1.15258426, 3.0)  # scaling factor, SNR shift: 5B and 2B


def change_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def load(family: Any, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The model of one pipeline folder, its VAE and text encoders when first used."""
    loader = Loader(Side(Source(str(folder))), torch.device("cpu"), dtype)
    return family.load(loader, frozenset())


def make_sdxl_pair(folder: Path, **unet: object) -> Path:
    """32x32 pictures, 8x8x4 latents; the edge's U-Net has one layer a block."""
    sd = make_pair(folder / "sd")
    torch.manual_seed(1)
    cloud = folder / "cloud"
    shutil.copytree(sd / "cloud", cloud)
    shutil.copytree(cloud / "tokenizer", cloud / "tokenizer_2")
    vocabulary = json.loads((cloud / "text_encoder" / "config.json").read_text())["vocab_size"]
    CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=24,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=16,
            projection_dim=12,
            bos_token_id=vocabulary - 2,
            eos_token_id=vocabulary - 1,
        )
    ).save_pretrained(cloud / "text_encoder_2")
    index = json.loads((cloud / "model_index.json").read_text())
    kept = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")
    index = {name: index[name] for name in kept} | {
        "_class_name": "StableDiffusionXLPipeline",
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "force_zeros_for_empty_prompt": True,
    }
    (cloud / "model_index.json").write_text(json.dumps(index))
    shutil.copytree(cloud, folder / "edge")
    for side, layers in (("cloud", 2), ("edge", 1)):
        _sdxl_unet(layers, **unet).save_pretrained(folder / side / "unet")
    shutil.rmtree(sd)
    _write_toml(folder, "sdxl", "size = [32, 32]\nguidance = 5.0")
    return folder


def _sdxl_unet(layers: int, **more: object) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=layers,
        transformer_layers_per_block=(1, 2),
        cross_attention_dim=40,  # both text encoders' widths
        attention_head_dim=(2, 4),
        norm_num_groups=4,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=12 + 6 * 8,
        **more,
    )


def make_cogvideox_pair(folder: Path) -> Path:
    """Clips of 9 frames of 32x32: 3x4x8x8 latents. The cloud has rotary positions, as 5B has."""
    torch.manual_seed(2)
    _write_t5(folder / "cloud")
    torch.manual_seed(3)
    vae = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 3,
        up_block_types=("CogVideoXUpBlock3D",) * 3,
        block_out_channels=(8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
        temporal_compression_ratio=4,
        sample_height=32,
        sample_width=32,
    )
    for side, layers, rotary, scale in (
        ("cloud", 2, True, CLOUD_SCALE),
        ("edge", 1, False, EDGE_SCALE),
    ):
        place = folder / side
        CogVideoXTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=8 if not rotary else 16,
            in_channels=4,
            out_channels=4,
            time_embed_dim=8,
            text_embed_dim=16,
            num_layers=layers,
            sample_width=8,
            sample_height=8,
            sample_frames=9,
            patch_size=2,
            temporal_compression_ratio=4,
            max_text_seq_length=12,
            use_rotary_positional_embeddings=rotary,
        ).save_pretrained(place / "transformer")
        vae.register_to_config(scaling_factor=scale[0])
        vae.save_pretrained(place / "vae")
        scheduler = CogVideoXDDIMScheduler(**COGVIDEOX_SCHEDULE, snr_shift_scale=scale[1])
        scheduler.save_pretrained(place / "scheduler")
        if side == "edge":
            shutil.copytree(folder / "cloud" / "text_encoder", place / "text_encoder")
            shutil.copytree(folder / "cloud" / "tokenizer", place / "tokenizer")
        index = {
            "_class_name": "CogVideoXPipeline",
            "scheduler": ["diffusers", "CogVideoXDDIMScheduler"],
            "text_encoder": ["transformers", "T5EncoderModel"],
            "tokenizer": ["transformers", "T5Tokenizer"],
            "transformer": ["diffusers", "CogVideoXTransformer3DModel"],
            "vae": ["diffusers", "AutoencoderKLCogVideoX"],
        }
        (place / "model_index.json").write_text(json.dumps(index))
    lines = 'size = [32, 32]\nframes = 9\nfps = 8\nguidance = 6.0\nembeddings = "cloud"'
    _write_toml(folder, "cogvideox", lines)
    return folder


def _write_t5(folder: Path) -> None:
    """A T5 encoder, and a SentencePiece model as T5's repositories hold it."""
    import sentencepiece

    place = folder / "tokenizer"
    place.mkdir(parents=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(WORDS)] * 20),
        model_prefix=str(place / "spiece"),
        vocab_size=40,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (place / "spiece.vocab").unlink()
    settings = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "model_max_length": 12}
    (place / "tokenizer_config.json").write_text(json.dumps(settings))
    T5EncoderModel(
        T5Config(
            vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2,
            feed_forward_proj="gated-gelu",
        )
    ).save_pretrained(folder / "text_encoder")  # fmt: skip


def _write_toml(folder: Path, family: str, lines: str) -> None:
    sides = '[cloud]\nmodel = "cloud"\n\n[edge]\nmodel = "edge"\n'
    (folder / "pair.toml").write_text(f'family = "{family}"\n{lines}\n\n{sides}')
