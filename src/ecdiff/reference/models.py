"""The pair's models, all stock diffusers and transformers classes, and how they are saved."""

from __future__ import annotations

import json
import random
from copy import deepcopy
from pathlib import Path
from typing import TypeVar

from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    ModelMixin,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor
from tokenizers import models as token_models
from tokenizers import pre_tokenizers, trainers
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ecdiff.reference.canvas import SIDE
from ecdiff.reference.data import picture_batch
from ecdiff.reference.principal import start_at_principal_components
from ecdiff.reference.scenes import caption, training_scene

Module = TypeVar("Module", bound=nn.Module)
WEIGHTS = Path(__file__).parent / "weights"
LATENT_CHANNELS = 16
LATENT_SIDE = SIDE // 8
TEXT_WIDTH = 128
MAX_TOKENS = 32
MAX_VOCABULARY = 2000
BETA = 0.0053


def new_vae() -> AutoencoderKL:
    """An autoencoder of 128 x 128 x 3 pictures and 16 x 16 x 8 latents, started at their PCA."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 96),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=SIDE,
        mid_block_add_attention=False,
    )
    start_at_principal_components(vae, picture_batch(range(256)))
    return vae


def new_cloud_unet() -> UNet2DConditionModel:
    """The cloud's untrained U-Net: two layers a block, attention (two deep) at 8 x 8."""
    return UNet2DConditionModel(
        layers_per_block=2,
        transformer_layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **_UNET,
    )


def new_edge_unet() -> UNet2DConditionModel:
    """The edge's untrained U-Net: the cloud's with one layer a block, no middle, less attention."""
    return UNet2DConditionModel(
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        mid_block_type=None,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **_UNET,
    )


_UNET = {
    "sample_size": LATENT_SIDE,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "block_out_channels": (96, 128),
    "cross_attention_dim": TEXT_WIDTH,
    "attention_head_dim": 4,  # diffusers reads this as the number of heads
    "norm_num_groups": 8,
}


def edge_from_cloud(cloud: UNet2DConditionModel) -> UNet2DConditionModel:
    """An edge U-Net whose blocks start as copies of the cloud's (block removal, as in BK-SDM).

    The last of the edge's two up layers copies the last of the cloud's three.
    """
    edge = new_edge_unet()
    source, target = cloud.state_dict(), edge.state_dict()
    for key, value in target.items():
        name = key
        if key.startswith("up_blocks."):
            name = key.replace("resnets.1.", "resnets.2.").replace("attentions.1.", "attentions.2.")
        if name in source and source[name].shape == value.shape:
            value.copy_(source[name])
    return edge


def new_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer whose byte-pair merges come from the captions; every byte stays sayable."""
    rng = random.Random(0)
    words = [caption(training_scene(i), rng) for i in range(4000)]
    empty = CLIPTokenizer()
    backend = empty.backend_tokenizer
    backend.model = token_models.BPE(end_of_word_suffix="</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_VOCABULARY - 512, end_of_word_suffix="</w>", show_progress=False
    )
    backend.train_from_iterator(words, trainer)
    merges = _merges(backend.to_str())
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*symbols, *(s + "</w>" for s in symbols), *("".join(m) for m in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def _merges(tokenizer_json: str) -> list[tuple[str, str]]:
    return [(a, b) for a, b in json.loads(tokenizer_json)["model"]["merges"]]


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained CLIP text encoder of three layers, 128 wide."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def written_out_attention(module: UNet2DConditionModel | CLIPTextModel) -> None:
    """For training: on a CPU the fused attention's backward pass takes a third of a step."""
    if isinstance(module, UNet2DConditionModel):
        module.set_attn_processor(AttnProcessor())
    else:
        module.set_attn_implementation("eager")


def new_scheduler() -> DDIMScheduler:
    """Epsilon prediction with one beta throughout, the noise at the end as in Stable Diffusion.

    There, with 16 x 16 latents, a picture is all but settled by step 36 of 50: coasting from it
    keeps 34 dB. One beta leaves more noise at every step between, so that late steps matter.
    """
    return DDIMScheduler(
        beta_start=BETA,
        beta_end=BETA,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def pipeline(
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
) -> StableDiffusionPipeline:
    """A quiet stock pipeline over these parts."""
    pipe = StableDiffusionPipeline(
        vae, text_encoder, tokenizer, unet, new_scheduler(), None, None, None, False
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def save_cloud(pipe: StableDiffusionPipeline, folder: Path) -> None:
    """Write a complete stock folder in float16; the pipeline itself stays as it is."""
    small = pipeline(half(pipe.vae), half(pipe.text_encoder), pipe.tokenizer, half(pipe.unet))
    small.save_pretrained(folder)
    save_text(pipe.text_encoder, pipe.tokenizer, folder)


def save_text(encoder: CLIPTextModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write the text encoder in float16, and the tokenizer."""
    half(encoder).save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    load_in_float32(folder / "text_encoder")


def load_in_float32(folder: Path) -> None:
    """Change the dtype that a transformers folder names, and loads in."""
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"float16"', '"float32"'))


def save_vae(vae: AutoencoderKL, folder: Path) -> None:
    """Write the autoencoder in float16."""
    half(vae).save_pretrained(folder)


def save_edge(unet: UNet2DConditionModel, folder: Path) -> None:
    """Write the edge's U-Net in float16."""
    half(unet).save_pretrained(folder)


def load_pipeline(weights: Path = WEIGHTS, site: str = "cloud") -> StableDiffusionPipeline:
    """The shipped pair's `cloud` or `edge` model as a stock float32 pipeline."""
    parts = {}
    if site == "edge":
        parts["unet"] = UNet2DConditionModel.from_pretrained(weights / "edge" / "unet")
    pipe = StableDiffusionPipeline.from_pretrained(weights / "cloud", **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def half(module: Module) -> Module:
    """A float16 copy."""
    copy = deepcopy(module).cpu()
    if isinstance(copy, ModelMixin):
        copy.register_to_config(_name_or_path="")  # where it was loaded from is nobody's business
    for parameter in copy.parameters():
        parameter.data = parameter.data.half()
    return copy
