"""What the results say, in sentences computed from them: what of the paper holds here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

ABOUT = 1.0  # dB of PSNR that "about as close" may lose
MARGINAL = 0.5  # dB: a smaller difference is none
Row = Mapping[str, Any]


def quality(result: Mapping[str, Any]) -> Iterator[str]:
    """Table 1's order and the sceptic's questions, at each guidance."""
    for found in result["results"]:
        at = f"Guidance {found['guidance']:g}: "
        rows = {row["name"]: row for row in found["rows"]}
        near, far = [row for name, row in rows.items() if name.startswith("HybridSD")]
        for name, row in rows.items():
            if name.startswith("EC-Diff") and "coasting" not in name:
                yield at + _order(row, near, far)
        ours = next(
            row
            for name, row in rows.items()
            if name.startswith(("EC-Diff, tuned", "EC-Diff, the default"))
        )
        same = rows[f"cloud, {ours['cloud_evaluated']} DDIM steps"]
        yield at + _against("as many DDIM steps as it has cloud evaluations", ours, same)
        solver = next(row for name, row in rows.items() if name.endswith("DPM++ steps"))
        yield at + _against(f"{solver['cloud_evaluated']} DPM++ steps", ours, solver)
        reuse = next(row for name, row in rows.items() if name.startswith("noise reuse"))
        yield at + _against("reusing the noise, without a gradient", ours, reuse)
        for name, row in rows.items():
            if name.startswith("DeepCache"):
                yield at + _against(name, ours, row)
        coasting = [row for name, row in rows.items() if "EC-Diff's lead, coasting" in name]
        if coasting:
            best = max(coasting, key=lambda row: _psnr(row))
            yield at + _against("its own lead and no edge at all (coasting)", ours, best)


def _order(row: Row, near: Row, far: Row) -> str:
    """The claim of Table 1, for one EC-Diff plan."""
    lost = _psnr(near) - _psnr(row)
    faster = row["speedup"] > near["speedup"]
    close = lost <= ABOUT
    better = _psnr(row) > _psnr(far) and row["speedup"] > far["speedup"]
    verdict = "holds" if faster and close and better else "does not hold"
    return (
        f"Table 1's order **{verdict}** for {row['name']}: {_psnr(row):.1f} dB at "
        f"{row['speedup']:.2f}x, {near['name']} {_psnr(near):.1f} dB at {near['speedup']:.2f}x, "
        f"{far['name']} {_psnr(far):.1f} dB at {far['speedup']:.2f}x"
        + ("" if verdict == "holds" else f" ({_why(faster, close, better, lost)})")
        + "."
    )


def _why(faster: bool, close: bool, better: bool, lost: float) -> str:
    reasons = []
    if not faster:
        reasons.append("not faster than the first")
    if not close:
        reasons.append(f"{lost:.1f} dB behind the first")
    if not better:
        reasons.append("not better than the second in both")
    return "; ".join(reasons)


def _against(what: str, ours: Row, other: Row) -> str:
    gap = _psnr(ours) - _psnr(other)
    if gap > MARGINAL:
        verdict = f"EC-Diff is {gap:.1f} dB better than {what}"
    elif gap < -MARGINAL:
        verdict = f"EC-Diff is {-gap:.1f} dB **worse** than {what}"
    else:
        verdict = f"EC-Diff and {what} are within {MARGINAL:g} dB"
    return (
        f"{verdict} ({_psnr(ours):.1f} dB, {ours['speedup']:.2f}x, {ours['cloud_seconds']:.2f} "
        f"cloud s; {_psnr(other):.1f} dB, {other['speedup']:.2f}x, "
        f"{other['cloud_seconds']:.2f} cloud s)."
    )


def _psnr(row: Row) -> float:
    """Equal pictures have none."""
    return float("inf") if row["psnr"] is None else float(row["psnr"])


def ablation(result: Mapping[str, Any]) -> Iterator[str]:
    for found in result["results"]:
        rows = {row["name"]: _psnr(row) for row in found["rows"]}
        ours = rows["EC-Diff"]
        changes = ", ".join(
            f"{name} {value - ours:+.1f} dB" for name, value in rows.items() if name != "EC-Diff"
        )
        yield f"Guidance {found['guidance']:g}, against EC-Diff's {ours:.1f} dB: {changes}."


def robustness(result: Mapping[str, Any]) -> Iterator[str]:
    for found in result["results"]:
        values = ", ".join(
            f"{row['share']:.1%} a step: {_psnr(row):.1f} dB" for row in found["rows"]
        )
        yield f"Guidance {found['guidance']:g}, PSNR to the picture without the noise, by {values}."


def noise(result: Mapping[str, Any]) -> Iterator[str]:
    for found in result["results"]:
        mean = found["mean"]
        early, late = median(mean[:5]), median(mean[len(mean) // 2 :])
        yield (
            f"Guidance {found['guidance']:g}: the noise changes by {early:.1%} a step over the "
            f"first 5 and by {late:.1%} over the second half (medians); the rule reads p = "
            f"{found['warmup']} off it."
        )


def error(result: Mapping[str, Any]) -> Iterator[str]:
    for found in result["results"]:
        ends = ", ".join(f"{name} {values[-1]:.3f}" for name, values in found["series"].items())
        yield f"Guidance {found['guidance']:g}, relative latent error after the last step: {ends}."


def network(result: Mapping[str, Any]) -> Iterator[str]:
    [found] = result["results"]
    points = found["points"]
    by_cloud = [{n: t for n, t in p["seconds"].items() if n != "edge"} for p in points]
    first = sum(times["EC-Diff"] == min(times.values()) for times in by_cloud)
    alone = sum(p["seconds"]["edge"] < p["seconds"]["EC-Diff"] for p in points)
    yield (
        f"Of the methods that use the cloud EC-Diff is the fastest at {first} of the "
        f"{len(points)} measured links; the edge alone is faster than it at {alone}."
    )
    for crossing in found["crossings"]:
        yield (
            f"At {crossing['bandwidth']:g} Mbit/s it and {crossing['with']} change places at a "
            f"round trip of {crossing['round_trip'] * 1e3:.0f} ms."
        )


OF: Mapping[str, Any] = {
    "quality": quality,
    "ablation": ablation,
    "robustness": robustness,
    "noise": noise,
    "error": error,
    "network": network,
}


def of(result: Mapping[str, Any]) -> Sequence[str]:
    """The sentences about one benchmark's result."""
    return list(OF[result["benchmark"]](result))
