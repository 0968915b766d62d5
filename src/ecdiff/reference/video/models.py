"""The video pair's models, all stock diffusers and transformers classes, and how they are saved.

Cloud and edge differ as CogVideoX-5B and 2B do: rotary against sine positions, latent scale and
signal-to-noise shift. They share the autoencoder's weights and the text encoder.
"""

from __future__ import annotations

import random
from copy import deepcopy
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from torch import nn
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from ecdiff.plan import Site
from ecdiff.reference.models import half, load_in_float32
from ecdiff.reference.video.clips import FRAMES, SIDE, caption, training_clip
from ecdiff.reference.video.data import clip_batch
from ecdiff.reference.video.principal import start_at_principal_components

WEIGHTS = Path(__file__).parent / "weights"
LATENT_CHANNELS = 8
LATENT_SIDE = SIDE // 4
PATCH = 2  # latents along a side of one token
LATENT_FRAMES = (FRAMES - 1) // 4 + 1
TEXT_WIDTH = 128
MAX_TOKENS = 16
WIDTH = 128
CLOUD_LAYERS = 6
EDGE_LAYERS = 2
EDGE_FROM_CLOUD = (0, 5)  # the cloud's layers that the edge's start from
SCALE_RATIO = 0.7 / 1.15258426  # the cloud's latent scale over the edge's, as 5B's over 2B's
SITES: tuple[Site, ...] = ("cloud", "edge")
SNR_SHIFT = {"cloud": 1.0, "edge": 3.0}


def new_vae() -> AutoencoderKLCogVideoX:
    """An autoencoder of 9 x 64 x 64 clips and 3 x 16 x 16 x 8 latents, started at their PCA."""
    vae = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 3,
        up_block_types=("CogVideoXUpBlock3D",) * 3,
        block_out_channels=(16, 32, 48),
        latent_channels=LATENT_CHANNELS,
        layers_per_block=1,
        norm_num_groups=8,
        sample_height=SIDE,
        sample_width=SIDE,
    )
    x = clip_batch(range(128))
    start_at_principal_components(vae, x)
    measure_scale(vae, x)
    return vae


@torch.no_grad()
def measure_scale(vae: AutoencoderKLCogVideoX, x: torch.Tensor) -> None:
    """Set `scaling_factor` to 1 / (root mean square of the latents of clips x)."""
    vae.eval()
    z = torch.cat([vae.encode(part).latent_dist.mean for part in torch.split(x, 16)])
    vae.register_to_config(scaling_factor=round(1 / float(z.square().mean().sqrt()), 6))


def new_cloud() -> CogVideoXTransformer3DModel:
    """The cloud's untrained transformer: six layers, rotary positions."""
    return _transformer(CLOUD_LAYERS, use_rotary_positional_embeddings=True)


def new_edge() -> CogVideoXTransformer3DModel:
    """The edge's untrained transformer: two layers, sine positions."""
    return _transformer(EDGE_LAYERS)


def _transformer(layers: int, **more: bool) -> CogVideoXTransformer3DModel:
    model = CogVideoXTransformer3DModel(
        num_attention_heads=WIDTH // 32,
        attention_head_dim=32,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        time_embed_dim=64,
        text_embed_dim=TEXT_WIDTH,
        num_layers=layers,
        sample_width=LATENT_SIDE,
        sample_height=LATENT_SIDE,
        sample_frames=FRAMES,
        patch_size=PATCH,
        max_text_seq_length=MAX_TOKENS,
        spatial_interpolation_scale=1.0,
        **more,
    )
    for block in model.transformer_blocks:  # each layer starts as the identity
        for norm in (block.norm1, block.norm2):
            nn.init.zeros_(norm.linear.weight)
            nn.init.zeros_(norm.linear.bias)
    return model


def edge_from_cloud(cloud: CogVideoXTransformer3DModel) -> CogVideoXTransformer3DModel:
    """An edge transformer whose layers and ends start as copies of the cloud's."""
    edge = new_edge()
    own = edge.state_dict()
    for name, value in cloud.state_dict().items():
        if name in own and not name.startswith("transformer_blocks."):
            own[name].copy_(value)
    for mine, theirs in enumerate(EDGE_FROM_CLOUD):
        edge.transformer_blocks[mine].load_state_dict(cloud.transformer_blocks[theirs].state_dict())
    return edge


def new_tokenizer() -> T5Tokenizer:
    """A T5 tokenizer whose pieces are the captions' words, and single letters for all others."""
    rng = random.Random(0)
    words = {w for i in range(8000) for w in caption(training_clip(i), rng).split()}
    letters = [chr(c) for c in range(33, 127)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("▁", -8.0)]
    pieces += [(f"▁{word}", -4.0) for word in sorted(words)]
    pieces += [(letter, -8.0) for letter in letters if f"▁{letter}" not in dict(pieces)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=MAX_TOKENS)


def new_text_encoder(tokenizer: T5Tokenizer) -> T5EncoderModel:
    """An untrained T5 encoder of two layers, 128 wide."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=TEXT_WIDTH,
            d_kv=32,
            d_ff=2 * TEXT_WIDTH,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def new_scheduler(site: Site) -> CogVideoXDDIMScheduler:
    """CogVideoX's noise schedule with the site's signal-to-noise shift, for v prediction."""
    return CogVideoXDDIMScheduler(
        prediction_type="v_prediction",
        clip_sample=False,
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        snr_shift_scale=SNR_SHIFT[site],
    )


def rotary(transformer: CogVideoXTransformer3DModel) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Cosines and sines, each [192, 32], as the stock pipeline makes them for a whole clip."""
    if not transformer.config.use_rotary_positional_embeddings:
        return None
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    patches = LATENT_SIDE // transformer.config.patch_size
    waves: tuple[torch.Tensor, torch.Tensor] = get_3d_rotary_pos_embed(
        embed_dim=transformer.config.attention_head_dim,
        crops_coords=((0, 0), (patches, patches)),
        grid_size=(patches, patches),
        temporal_size=LATENT_FRAMES,
        device=transformer.device,
    )
    return waves


def pipeline(
    site: Site,
    vae: AutoencoderKLCogVideoX,
    text_encoder: T5EncoderModel,
    tokenizer: T5Tokenizer,
    transformer: CogVideoXTransformer3DModel,
) -> CogVideoXPipeline:
    """A quiet stock pipeline over these parts, at the site's latent scale and schedule.

    `vae` says the edge's scaling factor, and keeps it.
    """
    pipe = CogVideoXPipeline(
        tokenizer, text_encoder, _for_site(vae, site), transformer, new_scheduler(site)
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def draw(
    pipe: CogVideoXPipeline, prompts: list[str], guidance: float, steps: int = 50, batch: int = 32
) -> torch.Tensor:
    """Clips [B, 3, 9, 64, 64] in [-1, 1] of the stock pipeline, seeds 0, 1, 2, ..."""
    parts = []
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        frames = pipe(
            part,
            height=SIDE,
            width=SIDE,
            num_frames=FRAMES,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(start + i) for i in range(len(part))],
            max_sequence_length=MAX_TOKENS,
            output_type="pt",
        ).frames
        parts.append(frames.float().transpose(1, 2) * 2 - 1)
    return torch.cat(parts)


def save(pipe: CogVideoXPipeline, folder: Path) -> None:
    """Write a complete stock folder in float16; the pipeline itself stays as it is."""
    small = CogVideoXPipeline(
        pipe.tokenizer,
        half(pipe.text_encoder),
        half(pipe.vae),
        half(pipe.transformer),
        pipe.scheduler,
    )
    small.save_pretrained(folder)
    load_in_float32(folder / "text_encoder")


def save_vae(vae: AutoencoderKLCogVideoX, weights: Path) -> None:
    """Write the autoencoder of both sites in float16; `vae` says the edge's scaling factor."""
    for site in SITES:
        half(_for_site(vae, site)).save_pretrained(weights / site / "vae")


def load_vae(weights: Path) -> AutoencoderKLCogVideoX:
    """The pair's autoencoder in float32, with the edge's scaling factor."""
    return AutoencoderKLCogVideoX.from_pretrained(weights / "edge" / "vae")


def load_pipeline(weights: Path = WEIGHTS, site: Site = "cloud") -> CogVideoXPipeline:
    """The pair's `cloud` or `edge` model as a stock float32 pipeline."""
    pipe = CogVideoXPipeline.from_pretrained(weights / site)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _for_site(vae: AutoencoderKLCogVideoX, site: Site) -> AutoencoderKLCogVideoX:
    """`vae`, which says the edge's scaling factor, or for the cloud a copy that says its own."""
    if site == "edge":
        return vae
    copy = deepcopy(vae)
    copy.register_to_config(scaling_factor=round(vae.config.scaling_factor * SCALE_RATIO, 6))
    return copy
