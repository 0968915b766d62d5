"""A small classifier that reads a clip's ground truth back: the judge of prompt adherence.

It looks at five of a clip's nine frames one by one; what, colour and background come from the
frames' pooled features, the motion from where things are in each. It learns from rendered clips,
half of them passed through the autoencoder, all blurred, noised and moved a little, so that it
judges content and not rendering. It sees every combination, the held-out ones too: a judge that
had never seen a yellow fish rise would call one something else.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLCogVideoX
from torch import nn

from ecdiff.reference.data import to_bytes, to_floats
from ecdiff.reference.heads import Examples, load_heads, train_heads, trunk
from ecdiff.reference.runs import RunConfig
from ecdiff.reference.video.clips import BACKGROUNDS, COLOURS, MOTIONS, OBJECTS, Clip, any_clip
from ecdiff.reference.video.data import clip_batch
from ecdiff.reference.video.vae import frame_psnr

HEADS = {
    "object": OBJECTS,
    "colour": COLOURS,
    "motion": tuple(MOTIONS),
    "background": tuple(BACKGROUNDS),
}
STAGES = ((3, 24, 2), (24, 48, 2), (48, 96, 2), (96, 96, 1))  # channels in and out, stride
SEEN = 5  # frames: 0, 2, 4, 6, 8
CLIPS = 4096
ROUNDTRIPS = 1024  # of the clips


class Classifier(nn.Module):
    """Clips [B, 3, 9, 64, 64] in [-1, 1] to logits: one tensor [B, classes] a head."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(*trunk(STAGES))
        self.place = nn.Conv2d(96, 4, 1)
        self.across = nn.Sequential(nn.Linear(SEEN * 4 * 8 * 8, 64), nn.SiLU())
        sizes = {name: 64 if name == "motion" else 2 * 96 for name in HEADS}
        self.heads = nn.ModuleDict({n: nn.Linear(sizes[n], len(HEADS[n])) for n in HEADS})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits by head."""
        maps = self.trunk(x[:, :, ::2].transpose(1, 2).flatten(0, 1))  # [B * 5, 96, 8, 8]
        pooled = torch.cat([maps.amax((2, 3)), maps.mean((2, 3))], 1)
        content = pooled.view(len(x), SEEN, -1).mean(1)
        motion = self.across(self.place(maps).reshape(len(x), -1))
        return {n: head(motion if n == "motion" else content) for n, head in self.heads.items()}


def labels(clips: list[Clip]) -> dict[str, torch.Tensor]:
    """The right class of every head, each [B]."""
    rows = [{**vars(c), "object": c.what} for c in clips]
    return {n: torch.tensor([names.index(r[n]) for r in rows]) for n, names in HEADS.items()}


@torch.no_grad()
def correct(judge: Classifier, x: torch.Tensor, clips: list[Clip]) -> dict[str, torch.Tensor]:
    """Which of the clips x [B, 3, 9, 64, 64] show what they should: bool [B] a head."""
    parts = [judge(part) for part in torch.split(x, 64)]
    wanted = labels(clips)
    return {h: torch.cat([p[h] for p in parts]).argmax(1) == wanted[h] for h in HEADS}


def train_classifier(config: RunConfig, vae: AutoencoderKLCogVideoX) -> Classifier:
    """Train on rendered clips and on what the autoencoder makes of some of them."""
    clips = [any_clip(seed) for seed in range(CLIPS)]
    truth = labels(clips)
    plain = torch.cat([to_bytes(clip_batch(clips[i : i + 64])) for i in range(0, CLIPS, 64)])
    rebuilt = to_bytes(frame_psnr(vae.eval(), to_floats(plain[:ROUNDTRIPS]))[1])
    classifier = Classifier()
    train_heads(config, classifier, Examples(plain, rebuilt, truth), _augment)
    return classifier


def load_classifier(weights: Path) -> Classifier:
    """The classifier of a weights folder, in float32."""
    classifier = Classifier()
    load_heads(classifier, weights / "classifier")
    return classifier


def _augment(x: torch.Tensor, g: torch.Generator) -> torch.Tensor:
    """Blur by a random amount, add a little noise and move by up to 3 pixels, all frames alike."""
    flat = x.flatten(1, 2)
    soft = F.avg_pool2d(F.pad(flat, (1, 1, 1, 1), mode="replicate"), 3, 1)
    share = torch.rand(len(x), 1, 1, 1, generator=g)
    flat = flat + share * (soft - flat)
    noise = torch.randn(flat.shape, generator=g)
    flat = flat + 0.08 * torch.rand(len(x), 1, 1, 1, generator=g) * noise
    dx, dy = torch.randint(-3, 4, (2,), generator=g).tolist()
    side = x.shape[-1]
    flat = F.pad(flat, (3, 3, 3, 3), mode="replicate")
    return flat[..., 3 + dy : 3 + dy + side, 3 + dx : 3 + dx + side].reshape(x.shape)
