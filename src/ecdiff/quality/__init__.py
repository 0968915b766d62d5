"""How good pictures are. Pairs of tensors [B, C, H, W] in [0, 1] give [B]:

| measure  | of                                         | best     |
| -------- | ------------------------------------------ | -------- |
| `psnr`   | pixel differences, dB                      | infinite |
| `ssim`   | local structure                            | 1        |
| `lpips`  | a trained network's features               | 0        |
| `detail` | the high frequencies' energy, a over b     | 1        |

`per_frame` averages any of them over a clip's frames; `fid` and `clip_score` judge sets.
"""

from ecdiff.quality.perceptual import lpips
from ecdiff.quality.sets import clip_score, fid
from ecdiff.quality.similarity import detail, psnr, ssim
from ecdiff.quality.video import per_frame

__all__ = ["clip_score", "detail", "fid", "lpips", "per_frame", "psnr", "ssim"]
