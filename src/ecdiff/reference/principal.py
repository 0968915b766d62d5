"""Start the autoencoder's encoder as an exact principal component analysis of 8 x 8 patches.

From random weights the encoder needs most of a short run to find which colours and coarse shapes
matter. Its skip path is linear, so it can hold the answer from the first step: each stride-2
convolution gathers 2 x 2 pixels and keeps the leading components of what it has gathered, while all
residual branches start at zero. The norm before the last layer is made a constant scale by a large
constant in each group, and its SiLU is undone by pairs: silu(x) - silu(-x) = x.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

KEPT = (12, 32)  # components kept at 64 x 64 and 32 x 32; at 16 x 16 it is the latent channels
GROUP_CONSTANT = 4.0  # standard deviations
LOG_VARIANCE = -6.0


@torch.no_grad()
def start_at_principal_components(vae: AutoencoderKL, x: torch.Tensor) -> None:
    """Set the encoder of `vae`; x [B, 3, 128, 128] are the pictures analysed."""
    encoder, latents = vae.encoder, vae.config.latent_channels
    for module in encoder.modules():
        if isinstance(module, ResnetBlock2D):
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(module.conv2.bias)
    _identity(encoder.conv_in, 3)
    y = x
    for level, kept in enumerate((*KEPT, latents)):
        block = encoder.down_blocks[level]
        if block.resnets[0].conv_shortcut is not None:
            _identity(block.resnets[0].conv_shortcut, y.shape[1])
        y = _gather(block.downsamplers[0].conv, y, kept)
    shortcut = encoder.down_blocks[-1].resnets[0].conv_shortcut
    paired_output(shortcut, encoder.conv_norm_out, encoder.conv_out, y, component_gains(y), (1, 1))
    for conv in (vae.quant_conv, vae.post_quant_conv):
        nn.init.zeros_(conv.bias)
        conv.weight.copy_(torch.eye(len(conv.weight))[:, :, None, None])


def _identity(conv: nn.Conv2d, channels: int) -> None:
    """Let the first `channels` through unchanged."""
    middle = conv.kernel_size[0] // 2
    assert conv.bias is not None
    conv.weight[:channels] = 0
    conv.bias[:channels] = 0
    for c in range(channels):
        conv.weight[c, c, middle, middle] = 1


def _gather(conv: nn.Conv2d, y: torch.Tensor, kept: int) -> torch.Tensor:
    """Make a stride-2 convolution keep the `kept` leading components of 2 x 2 patches of y."""
    patches = nn.functional.pixel_unshuffle(y, 2)  # channel c * 4 + dy * 2 + dx
    basis = leading_components(patches, kept)
    assert conv.bias is not None
    conv.weight[:kept] = 0
    conv.bias[:kept] = 0
    conv.weight[:kept, : y.shape[1], :2, :2] = basis.view(kept, -1, 2, 2)
    return nn.functional.conv2d(patches, basis[:, :, None, None])


def leading_components(patches: torch.Tensor, kept: int) -> torch.Tensor:
    """The `kept` leading principal components of patches [B, D, H, W], largest first: [kept, D]."""
    flat = patches.transpose(0, 1).flatten(1)
    vectors: torch.Tensor = torch.linalg.eigh(torch.cov(flat)).eigenvectors
    return vectors[:, -kept:].flip(1).T


def component_gains(y: torch.Tensor) -> torch.Tensor:
    """Gains [C] that give components y [B, C, ...] a mean deviation of 1, in the same order."""
    deviation = y.transpose(0, 1).flatten(1).std(1)
    gain = deviation**-0.5
    return gain / (gain * deviation).mean()


def paired_output(
    shortcut: nn.Conv2d | nn.Conv3d,
    norm: nn.GroupNorm,
    out: nn.Conv2d | nn.Conv3d,
    y: torch.Tensor,
    gain: torch.Tensor,
    tap: tuple[int, ...],
) -> None:
    """Route component k of y [B, C, ...] as (y, -y) through `norm` and SiLU to latent channel k.

    `tap` is the place in `out`'s kernel that reads the pixel itself.
    """
    groups, channels = norm.num_groups, len(shortcut.weight)
    size, count = channels // groups, len(gain)
    components = y.transpose(0, 1).flatten(1)
    mean, std = components.mean(1), components.std(1)
    per_group = -(-count // groups)
    assert size >= 2 + 2 * per_group, "too few channels a group for the latents"
    assert shortcut.bias is not None
    assert out.bias is not None
    shortcut.weight *= 0.1
    shortcut.bias.zero_()
    nn.init.zeros_(out.weight)
    nn.init.zeros_(out.bias)
    out.bias[count:] = LOG_VARIANCE
    scale = ((2 * GROUP_CONSTANT**2 + 2 * per_group) / size) ** 0.5
    for g in range(groups):
        shortcut.weight[g * size : g * size + 2] = 0
        shortcut.bias[g * size], shortcut.bias[g * size + 1] = GROUP_CONSTANT, -GROUP_CONSTANT
    for k in range(count):
        at = (k % groups) * size + 2 + 2 * (k // groups)
        for row, sign in ((at, 1.0), (at + 1, -1.0)):
            shortcut.weight[row] = 0
            shortcut.weight[row, k] = sign / std[k]
            shortcut.bias[row] = -sign * mean[k] / std[k]
            out.weight[(k, row, *tap)] = sign * scale * std[k] * gain[k]
