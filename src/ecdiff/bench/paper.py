"""The paper's own numbers, to stand beside ours. Its pairs, sizes and prompts are not ours."""

from __future__ import annotations

from typing import NamedTuple


class Quality(NamedTuple):
    """A row of Table 1. `speedup` is over cloud-only."""

    pair: str
    method: str
    psnr: float
    lpips: float
    ssim: float
    seconds: float
    speedup: float


TABLE_1 = (
    Quality("SD-v1.4 + BK-SDM-Small", "HybridSD, 10 edge steps", 29.508, 0.035, 0.923, 1.61, 1.05),
    Quality("SD-v1.4 + BK-SDM-Small", "HybridSD, 25 edge steps", 23.121, 0.134, 0.786, 1.39, 1.23),
    Quality("SD-v1.4 + BK-SDM-Small", "EC-Diff", 29.402, 0.040, 0.919, 1.16, 1.47),
    Quality("SD-v1.4 + BK-SDM-Tiny", "HybridSD, 10 edge steps", 29.389, 0.036, 0.919, 1.58, 1.08),
    Quality("SD-v1.4 + BK-SDM-Tiny", "HybridSD, 25 edge steps", 22.811, 0.141, 0.781, 1.36, 1.25),
    Quality("SD-v1.4 + BK-SDM-Tiny", "EC-Diff", 29.363, 0.049, 0.912, 1.05, 1.62),
    Quality("SDXL-base + SSD-1B", "HybridSD, 10 edge steps", 30.588, 0.046, 0.909, 5.87, 1.07),
    Quality("SDXL-base + SSD-1B", "HybridSD, 25 edge steps", 25.201, 0.132, 0.821, 5.28, 1.19),
    Quality("SDXL-base + SSD-1B", "EC-Diff", 30.610, 0.061, 0.905, 2.77, 2.26),
    Quality("SDXL-base + SSD-vega", "HybridSD, 10 edge steps", 29.322, 0.058, 0.889, 5.64, 1.11),
    Quality("SDXL-base + SSD-vega", "HybridSD, 25 edge steps", 24.029, 0.157, 0.792, 4.76, 1.32),
    Quality("SDXL-base + SSD-vega", "EC-Diff", 28.542, 0.063, 0.870, 2.61, 2.40),
    Quality(
        "CogVideoX-5B + CogVideoX-2B", "HybridSD, 10 edge steps", 28.733, 0.055, 0.895, 211.17, 1.16
    ),
    Quality(
        "CogVideoX-5B + CogVideoX-2B", "HybridSD, 25 edge steps", 19.684, 0.178, 0.780, 165.95, 1.48
    ),
    Quality("CogVideoX-5B + CogVideoX-2B", "EC-Diff", 28.478, 0.069, 0.898, 105.61, 2.31),
)

TABLE_2 = {  # our row's name: PSNR dB, LPIPS, SSIM
    "EC-Diff": (29.279, 0.057, 0.901),
    "corrected twice": (29.278, 0.055, 0.903),
    "without alpha": (8.328, 0.783, 0.203),
    "Euler": (29.387, 0.051, 0.903),
    "DPM++ 2M": (28.814, 0.064, 0.897),
}
