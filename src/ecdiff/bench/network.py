"""Claim: EC-Diff is the fastest way to a picture over a slow network too, down to a crossing point.

Whole generations through a real server process behind a proxy that delays and throttles
(`link.py`). What the link costs is the clock's time of a generation less what the two sides'
models took, a median over rounds in each of which every method has its turn. The models' part is
the sum of step times, as in the other benchmarks. Edge-only does not use the link.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from itertools import pairwise, product
from statistics import median
from typing import Any
from urllib.parse import urlsplit

from ecdiff.bench import figures
from ecdiff.bench.link import Link, shaped
from ecdiff.bench.setup import Setup
from ecdiff.bench.sheet import Sheet, shown
from ecdiff.edge.pipeline import EdgeCloudPipeline
from ecdiff.launch import local_server
from ecdiff.measure import seconds_of
from ecdiff.plan import Plan, cloud_only, edge_only, split

LIMIT = 1
BANDWIDTHS = (1.0, 10.0, 100.0, 1000.0)  # Mbit/s
ROUND_TRIPS = (0.0, 0.1, 0.3)  # seconds
ROUNDS = 3
Draw = Callable[[Plan, float, float], float]  # seconds of the link, for a plan on it


def plans(setup: Setup) -> dict[str, Plan]:
    steps = setup.steps
    k = round(10 * steps / 50)
    return {
        "cloud": cloud_only(steps),
        f"HybridSD, {k} edge steps": split(steps, steps - k),
        "EC-Diff": setup.ec_diff,
        "edge": edge_only(steps),
    }


def measure(setup: Setup, guidance: float, say: Callable[[str], object]) -> dict[str, Any]:
    request, chosen, times = setup.requests(guidance)[:1], plans(setup), setup.times(guidance)
    linked = {name: plan for name, plan in chosen.items() if plan.handoff_step}
    about = {"plans": {name: plan.to_json() for name, plan in linked.items()}, "rounds": ROUNDS}
    points: list[dict[str, Any]] = []
    with _generating(setup, guidance) as draw:
        for bandwidth, trip in product(BANDWIDTHS, ROUND_TRIPS):
            say(f"{bandwidth:g} Mbit/s, {trip * 1e3:g} ms")
            link = setup.keep(
                "link",
                request,
                about | {"link": [bandwidth, trip]},
                partial(_medians, draw, linked, bandwidth, trip),
            )
            seconds = {
                name: round(seconds_of(plan, times) + link.get(name, 0.0), 4)
                for name, plan in chosen.items()
            }
            points.append(
                {"bandwidth": bandwidth, "round_trip": trip, "link": link, "seconds": seconds}
            )
    return {"points": points, "crossings": list(crossings(points))}


def _medians(draw: Draw, plans: Mapping[str, Plan], mbit: float, trip: float) -> dict[str, float]:
    rounds = [{name: draw(plan, mbit, trip) for name, plan in plans.items()} for _ in range(ROUNDS)]
    return {name: round(median(each[name] for each in rounds), 4) for name in plans}


@contextmanager
def _generating(setup: Setup, guidance: float) -> Iterator[Draw]:
    """Generations through the link. Server and edge start when the first is asked for."""
    options = {"guidance_scale": guidance, "seed": setup.asked.seed, "output_type": "pt"}
    with ExitStack() as stack:

        @cache
        def started() -> tuple[Link, EdgeCloudPipeline]:
            asked = setup.asked
            server = stack.enter_context(local_server(asked.pair, asked.device, asked.dtype))
            link = stack.enter_context(shaped(urlsplit(server.url()).port or 80))
            pipe = EdgeCloudPipeline.from_pretrained(
                setup.pair,
                f"ws://127.0.0.1:{link.port}",
                token=server.token,
                device=asked.device,
                dtype=asked.dtype,
            )
            server.wait_until_ready()
            pipe(setup.texts[0], plan=setup.ec_diff, **options)  # what only a first call costs
            return link, pipe

        def draw(plan: Plan, bandwidth: float, trip: float) -> float:
            link, pipe = started()
            link.bandwidth, link.round_trip = bandwidth, trip
            took = pipe(setup.texts[0], plan=plan, **options).receipt.seconds
            return took.total - took.cloud - took.edge - took.decode

        yield draw


def crossings(points: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Links at which EC-Diff and another method are equally fast: between two neighbours of the
    grid where they change places, the times being linear in round trip and 1 / bandwidth."""
    ways = ("bandwidth", "round_trip"), ("round_trip", "bandwidth")
    for held, varied in ways:
        for value in sorted({point[held] for point in points}):
            line = sorted((p for p in points if p[held] == value), key=lambda p: float(p[varied]))
            for one, two in pairwise(line):
                for name, share in _changes(one["seconds"], two["seconds"]):
                    yield {
                        held: value,
                        varied: _between(varied, one[varied], two[varied], share),
                        "with": name,
                    }


def _changes(one: Mapping[str, float], two: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """(method, how far on the way from one to two) where EC-Diff overtakes or is overtaken."""
    for name in one:
        a, b = one["EC-Diff"] - one[name], two["EC-Diff"] - two[name]
        if a * b < 0:
            yield name, a / (a - b)


def _between(what: str, low: float, high: float, share: float) -> float:
    if what == "bandwidth":
        return round(1 / (1 / low + share * (1 / high - 1 / low)), 2)
    return round(low + share * (high - low), 4)


def sheets(result: dict[str, Any]) -> list[Sheet]:
    [found] = result["results"]
    names = list(found["points"][0]["seconds"])
    rows = [
        [
            f"{point['bandwidth']:g} Mbit/s, {point['round_trip'] * 1e3:g} ms",
            *(shown(point["seconds"][name]) for name in names),
        ]
        for point in found["points"]
    ]
    title = f"seconds of one picture over a shaped link, guidance {found['guidance']:g}"
    crossed = [
        [
            f"EC-Diff and {c['with']} at {c['bandwidth']:g} Mbit/s",
            f"{c['round_trip'] * 1e3:.0f} ms",
        ]
        for c in found["crossings"]
    ]
    out = [Sheet(title, ["link", *names], rows)]
    return out + ([Sheet("crossing points", ["of", "round trip"], crossed)] if crossed else [])


def draw(result: dict[str, Any]) -> Any:
    [found] = result["results"]
    figure, panels = figures.page(len(BANDWIDTHS))
    for axes, bandwidth in zip(panels, BANDWIDTHS, strict=True):
        along = [p for p in found["points"] if p["bandwidth"] == bandwidth]
        trips = [1e3 * p["round_trip"] for p in along]
        for name in along[0]["seconds"]:
            axes.plot(trips, [p["seconds"][name] for p in along], marker="o", label=name)
        for crossing in found["crossings"]:
            if crossing["bandwidth"] == bandwidth:
                axes.axvline(1e3 * crossing["round_trip"], color="grey", linestyle=":")
        axes.set(xlabel="round trip, ms", ylabel="s", ylim=(0, None), title=f"{bandwidth:g} Mbit/s")
        axes.legend(fontsize=7)
    return figure
