"""The benchmarks that share one ground: what they are called, and how one is run and written."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ecdiff.bench import ablation, error, network, noise, quality, robustness
from ecdiff.bench.setup import Asked, Setup
from ecdiff.bench.sheet import Sheet


class Benchmark(Protocol):
    """A module whose first line is its claim."""

    LIMIT: int  # prompts, where no number is asked for

    @staticmethod
    def measure(setup: Setup, guidance: float, say: Callable[[str], object]) -> dict[str, Any]: ...

    @staticmethod
    def sheets(result: dict[str, Any]) -> list[Sheet]: ...

    @staticmethod
    def draw(result: dict[str, Any]) -> Any:
        """A matplotlib figure."""
        ...


@dataclass(frozen=True)
class Entry:
    benchmark: Benchmark
    claim: str
    every_guidance: bool = True  # else only the last of those asked for: the pair's own

    @staticmethod
    def of(benchmark: Any, every_guidance: bool = True) -> Entry:
        claim = benchmark.__doc__.partition("\n")[0].removeprefix("Claim: ")
        return Entry(benchmark, claim, every_guidance)


BENCHMARKS: Mapping[str, Entry] = {
    "quality": Entry.of(quality),
    "ablation": Entry.of(ablation),
    "robustness": Entry.of(robustness),
    "noise": Entry.of(noise),
    "error": Entry.of(error),
    "network": Entry.of(network, every_guidance=False),
}


def measure(name: str, asked: Asked, say: Callable[[str], object]) -> dict[str, Any]:
    """A benchmark's result, from what is known already where it is. Raises InputError."""
    entry = BENCHMARKS[name]
    setup = Setup(asked, entry.benchmark.LIMIT)
    try:
        guidances = setup.guidances if entry.every_guidance else setup.guidances[-1:]
        results = [
            {"guidance": g} | entry.benchmark.measure(setup, g, lambda text: say(f"{name}: {text}"))
            for g in guidances
        ]
        return {"benchmark": name, "claim": entry.claim} | setup.facts | {"results": results}
    finally:
        setup.close()


def write(result: dict[str, Any], folder: Path) -> None:
    """`NAME.json` and `NAME.png`, each whole or not at all."""
    name = result["benchmark"]
    page = BENCHMARKS[name].benchmark.draw(result)
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{name}.unfinished"
    try:
        page.savefig(unfinished, dpi=80, format="png", metadata={"Software": None})
        unfinished.replace(folder / f"{name}.png")
        unfinished.write_text(json.dumps(result, indent=1) + "\n")
        unfinished.replace(folder / f"{name}.json")
    finally:
        unfinished.unlink(missing_ok=True)
