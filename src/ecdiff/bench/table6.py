"""The EC-Diff paper's Table 6 (seconds of one generation), and what arithmetic says of it.

Each figure is compared with the sum of the paper's own per-step times: a cloud step takes a
fiftieth of its cloud-only figure, an edge step a fiftieth of its edge-only one, an extrapolated
step nothing. HybridSD evaluates all 50 steps, so its sum also holds whatever part of the time
is fixed (encoding, decoding); for EC-Diff a fixed part would only add to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ecdiff.plan import Plan

BANDWIDTH = 18.88e6  # bits per second, the paper's mean Wi-Fi
KIB = 1024
CLOUD, EDGE, HYBRID_10, HYBRID_25, EC_DIFF = (
    "cloud only",
    "edge only",
    "HybridSD, 10 edge",
    "HybridSD, 25 edge",
    "EC-Diff",
)


@dataclass(frozen=True)
class Row:
    """One row of Table 6. Shapes are what the paper counts as sent, in half precision."""

    seconds: Mapping[str, float]
    latents: tuple[int, ...]
    embeddings: tuple[int, ...]
    true_latents: tuple[int, ...]

    @property
    def rounding(self) -> float:
        """Seconds by which rounded cloud-only and edge-only figures may shift a sum."""
        whole = all(float(self.seconds[name]).is_integer() for name in (CLOUD, EDGE))
        return 0.5 if whole else 0.02

    @property
    def claimed_bytes(self) -> int:
        return half_bytes(self.latents) + half_bytes(self.embeddings)

    @property
    def true_bytes(self) -> int:
        return half_bytes(self.true_latents) + half_bytes(self.embeddings)


def _row(
    cloud: float,
    edge: float,
    rest: tuple[float, float, float],
    latents: tuple[int, ...],
    embeddings: tuple[int, ...],
    true_latents: tuple[int, ...] | None = None,
) -> Row:
    names = (CLOUD, EDGE, HYBRID_10, HYBRID_25, EC_DIFF)
    seconds = dict(zip(names, (cloud, edge, *rest), strict=True))
    return Row(seconds, latents, embeddings, true_latents or latents)


SD = ((4, 64, 64), (2, 77, 768))
SDXL = ((4, 128, 128), (2, 77, 2048))
COGVIDEOX = ((3, 16, 60, 90), (2, 226, 4096), (13, 16, 60, 90))
PAPER: dict[str, Row] = {
    "sd14-bksdm-small": _row(1.70, 1.18, (1.61, 1.39, 1.16), *SD),
    "sd14-bksdm-tiny": _row(1.70, 1.10, (1.58, 1.36, 1.05), *SD),
    "sdxl-ssd1b": _row(6.25, 4.29, (5.87, 5.28, 2.77), *SDXL),
    "sdxl-vega": _row(6.25, 3.27, (5.64, 4.76, 2.61), *SDXL),
    "cogvideox-5b-2b": _row(245, 91, (211.17, 165.95, 105.61), *COGVIDEOX),
}


def half_bytes(shape: tuple[int, ...]) -> int:
    size = 2
    for length in shape:
        size *= length
    return size


def transfer_seconds(size: int) -> float:
    """Seconds that `size` bytes take at the paper's bandwidth."""
    return size * 8 / BANDWIDTH


@dataclass(frozen=True)
class Check:
    """A figure of the paper beside the sum of its own steps, without and with its transfer."""

    method: str
    paper: float
    steps: float
    with_transfer: float
    arithmetic: str
    verdict: str


def check(pair: str, plans: Mapping[str, Plan]) -> list[Check]:
    """The rows of Table 6 that are sums of steps: HybridSD's two and EC-Diff's."""
    row = PAPER[pair]
    sent = transfer_seconds(row.claimed_bytes)
    cloud, edge = row.seconds[CLOUD], row.seconds[EDGE]
    checks = []
    for method in (HYBRID_10, HYBRID_25, EC_DIFF):
        counts = plans[method].counts()
        n, m, total = counts.cloud_evaluated, counts.edge_evaluated, plans[method].steps
        steps = n / total * cloud + m / total * edge
        checks.append(
            Check(
                method,
                row.seconds[method],
                steps,
                steps + sent,
                f"{n}/{total} x {cloud:g} + {m}/{total} x {edge:g} = {steps:.2f}",
                _verdict(row.seconds[method], steps, sent, row.rounding),
            )
        )
    return checks


def _verdict(paper: float, steps: float, sent: float, rounding: float) -> str:
    if paper < steps - rounding:
        return f"cannot be reproduced: {steps - paper:.2f} s less than its own steps take"
    if paper < steps + sent - rounding:
        return f"without the {sent:.2f} s of transfer it says it includes"
    extra = paper - steps - sent
    return "its steps and its transfer" + (f", and {extra:.2f} s more" if extra > rounding else "")


def lines(pair: str, plans: Mapping[str, Plan]) -> list[str]:
    """The arithmetic, to be read by a person; nothing for a pair that Table 6 lacks."""
    if pair not in PAPER:
        return [f"{pair} is not in the paper's Table 6"]
    row = PAPER[pair]
    out = ["The paper's figures against the sum of their own steps:"]
    for c in check(pair, plans):
        out.append(
            f"  {c.method}: {c.paper:g} s. {c.arithmetic}, with transfer "
            f"{c.with_transfer:.2f}: {c.verdict}"
        )
    out.append(f"  transfer, as the paper counts it: {_sizes(row.latents, row.embeddings)}")
    if row.true_latents != row.latents:
        frames = row.true_latents[0]
        out.append(
            f"  49 frames have (49 - 1) / 4 + 1 = {frames} latent frames, not {row.latents[0]}: "
            f"{_sizes(row.true_latents, row.embeddings)}"
        )
    return out


def _sizes(latents: tuple[int, ...], embeddings: tuple[int, ...]) -> str:
    a, b = half_bytes(latents), half_bytes(embeddings)
    return (
        f"latents {' x '.join(map(str, latents))} {a / KIB:,.0f} KiB + embeddings "
        f"{' x '.join(map(str, embeddings))} {b / KIB:,.0f} KiB = {(a + b) / KIB:,.0f} KiB, "
        f"{transfer_seconds(a + b):.2f} s at {BANDWIDTH / 1e6:g} Mbit/s"
    )


def to_json(pair: str, plans: Mapping[str, Plan]) -> dict[str, Any] | None:
    if pair not in PAPER:
        return None
    row = PAPER[pair]
    return {
        "seconds": dict(row.seconds),
        "claimed_bytes": row.claimed_bytes,
        "true_bytes": row.true_bytes,
        "checks": {
            c.method: {"steps": round(c.steps, 3), "verdict": c.verdict} for c in check(pair, plans)
        },
    }
