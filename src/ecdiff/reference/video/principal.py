"""Start the video autoencoder's encoder as a principal component analysis in space and time.

As for pictures (`ecdiff.reference.principal`): residual branches start at zero, the skip path is
linear, and each stride-2 convolution keeps the leading components of 2 x 2 patches. Time is halved
by a plain average of frame pairs, so that one channel alone would lose all motion. The first
convolution therefore hands on each frame and, beside it, the frame before: averaged twice, the
two give the mean of four frames, and by their difference the change across those four.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLCogVideoX
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import CogVideoXResnetBlock3D
from torch import nn

from ecdiff.reference.principal import component_gains, leading_components, paired_output

KEPT = (14,)  # components kept at 32 x 32; at 16 x 16 it is the latent channels


@torch.no_grad()
def start_at_principal_components(vae: AutoencoderKLCogVideoX, x: torch.Tensor) -> None:
    """Set the encoder of `vae`; x [B, 3, 9, 64, 64] are the clips analysed."""
    encoder, latents = vae.encoder, vae.config.latent_channels
    for module in encoder.modules():
        if isinstance(module, CogVideoXResnetBlock3D):
            nn.init.zeros_(module.conv2.conv.weight)
            nn.init.zeros_(module.conv2.conv.bias)
    y = _frames_and_changes(encoder.conv_in.conv, x)
    for level, kept in enumerate((*KEPT, latents)):
        block = encoder.down_blocks[level]
        if block.resnets[0].in_channels != block.resnets[0].out_channels:
            _identity(block.resnets[0].conv_shortcut, y.shape[1])
        sampler = block.downsamplers[0]
        y = _gather(sampler.conv, _halve_time(y) if sampler.compress_time else y, kept)
    shortcut, out = encoder.down_blocks[-1].resnets[0].conv_shortcut, encoder.conv_out.conv
    paired_output(shortcut, encoder.norm_out, out, y, component_gains(y), (-1, 1, 1))


def _frames_and_changes(conv: nn.Conv3d, x: torch.Tensor) -> torch.Tensor:
    """Make the first convolution give (x_t + x_{t-1}) / 2 and x_t - x_{t-1}: [B, 6, T, H, W]."""
    assert conv.bias is not None
    conv.weight[:6] = 0
    conv.bias[:6] = 0
    for c in range(3):
        conv.weight[c, c, 1:, 1, 1] = 0.5
        conv.weight[3 + c, c, 1, 1, 1], conv.weight[3 + c, c, 2, 1, 1] = -1, 1
    before = torch.cat([x[:, :, :1], x[:, :, :-1]], 2)
    return torch.cat([(x + before) / 2, x - before], 1)


def _halve_time(y: torch.Tensor) -> torch.Tensor:
    """The first frame as it is, then the means of pairs: [B, C, 2 n + 1, H, W] to n + 1 frames."""
    pairs = (y[:, :, 1::2] + y[:, :, 2::2]) / 2
    return torch.cat([y[:, :, :1], pairs], 2)


def _identity(conv: nn.Conv3d, channels: int) -> None:
    """Let the first `channels` through a 1 x 1 x 1 convolution unchanged."""
    assert conv.bias is not None
    conv.weight[:channels] = 0
    conv.bias[:channels] = 0
    for c in range(channels):
        conv.weight[c, c] = 1


def _gather(conv: nn.Conv2d, y: torch.Tensor, kept: int) -> torch.Tensor:
    """Make a stride-2 convolution keep the `kept` leading components of 2 x 2 patches of y."""
    count = y.shape[0]
    patches = F.pixel_unshuffle(y.transpose(1, 2).flatten(0, 1), 2)  # channel c * 4 + dy * 2 + dx
    basis = leading_components(patches, kept)
    assert conv.bias is not None
    conv.weight[:kept] = 0
    conv.bias[:kept] = 0
    conv.weight[:kept, : y.shape[1], :2, :2] = basis.view(kept, -1, 2, 2)
    reduced = F.conv2d(patches, basis[:, :, None, None])
    return reduced.view(count, -1, *reduced.shape[1:]).transpose(1, 2)
