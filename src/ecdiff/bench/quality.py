"""Claim: EC-Diff is faster than HybridSD with 10 edge steps and about as close to the cloud.

Table 1, and the rows a sceptic asks for. Every row draws the same prompts from the same seeds;
PSNR, SSIM, LPIPS and detail are against the cloud-only pictures. Time is the sum of per-step times,
measured interleaved, over the steps each plan evaluates, and of the handoff at 18.88 Mbit/s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ecdiff.bench import figures
from ecdiff.bench.deepcache import INTERVAL
from ecdiff.bench.rows import Row, measure_rows, shallow_share, sheet
from ecdiff.bench.setup import Setup
from ecdiff.bench.sheet import Sheet
from ecdiff.plan import Phase, Plan, cloud_only, edge_only, split

LIMIT = 32
PAPERS = ((7, 2, 0.3, 34), (7, 2, 0.3, 37), (6, 5, 0.2, 30), (6, 5, 0.2, 36), (10, 3, 0.2, 38))
SOLVER_STEPS = 20  # of DPM++ 2M


def rows(steps: int, ec_diff: Plan, tuned: bool) -> list[Row]:
    """Table 1 with the paper's plans (Table 5), scaled to `steps`; then the sceptic's rows."""
    plans = {"cloud": cloud_only(steps), "edge": edge_only(steps)}
    for k in (10, 25):
        count = round(k * steps / 50)
        plans[f"HybridSD, {count} edge steps"] = split(steps, steps - count)
    for p, k, alpha, s in PAPERS:
        s = round(s * steps / 50)
        plan = split(steps, s, min(p, s), k, alpha)
        plans[f"EC-Diff p{p} k{k} alpha {alpha} s{s}"] = plan
    name = f"EC-Diff, {'tuned' if tuned else 'the default'}: {parameters(ec_diff)}"
    plans[name] = ec_diff
    out = [Row(name, plan) for name, plan in _distinct(plans).items()]
    counts = {row.plan.counts().cloud_evaluated for row in out if row.name.startswith("EC-Diff")}
    out += [Row(f"cloud, {n} DDIM steps", cloud_only(n)) for n in sorted(counts, reverse=True)]
    out.append(Row(f"cloud, {SOLVER_STEPS} DPM++ steps", cloud_only(SOLVER_STEPS), "dpm++"))
    lead, *rest = ec_diff.phases
    reuse = Phase("cloud", lead.steps, lead.warmup, lead.skip, rule="reuse")
    out.append(Row(f"noise reuse, {parameters(ec_diff)}", Plan(steps, (reuse, *rest))))
    return out + _coasting(steps, ec_diff)


def _coasting(steps: int, ec_diff: Plan) -> list[Row]:
    """No edge at all: the last noise is held, or changes on as it did last, to the end."""
    out = []
    plain = steps - round(10 * steps / 50)
    for how, rule in (("held", "reuse"), ("extrapolated", "gradient")):
        after = Phase("cloud", steps - plain + 2, 2, steps, rule=rule)
        plan = Plan(steps, (Phase("cloud", plain - 2), after))
        out.append(Row(f"coasting from s{plain}, {how}", plan))
    lead = ec_diff.phases[0]
    if lead.warmup < lead.steps < steps:
        # Its two evaluated steps are the last before the handoff and the first after it.
        before = Phase("cloud", lead.steps - 1, lead.warmup, lead.skip, lead.smoothing)
        for how, rule in (("held", "reuse"), ("extrapolated", "gradient")):
            after = Phase("cloud", steps - lead.steps + 1, 2, steps, rule=rule)
            name = f"EC-Diff's lead, coasting from s{lead.steps + 1}, {how}"
            out.append(Row(name, Plan(steps, (before, after))))
    return out


def parameters(plan: Plan) -> str:
    """The paper's four parameters of an EC-Diff plan."""
    lead = plan.phases[0]
    return f"p{lead.warmup} k{lead.skip} alpha {lead.smoothing:g} s{plan.handoff_step}"


def _distinct(plans: dict[str, Plan]) -> dict[str, Plan]:
    """A plan that stands twice, as a paper's and as the one under test, keeps its last name."""
    last = {plan: name for name, plan in plans.items()}
    return {name: plan for name, plan in plans.items() if last[plan] == name}


def measure(setup: Setup, guidance: float, say: Callable[[str], object]) -> dict[str, Any]:
    chosen = rows(setup.steps, setup.ec_diff, setup.asked.plan is not None)
    if shallow_share(setup, guidance) is not None:
        name = f"DeepCache, whole every {INTERVAL} steps"
        chosen.append(Row(name, cloud_only(setup.steps), deepcache=True))
    return {
        "rows": measure_rows(setup, chosen, guidance, say),
        "step_seconds": setup.times(guidance),
    }


def sheets(result: dict[str, Any]) -> list[Sheet]:
    return [
        sheet(
            f"{result['pair']}, guidance {found['guidance']:g}, {result['steps']} steps, "
            f"{result['prompts']} prompts",
            found["rows"],
        )
        for found in result["results"]
    ]


def draw(result: dict[str, Any]) -> Any:
    return figures.quality_against_speed(result["results"])
