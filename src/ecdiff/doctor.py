"""`ecdiff doctor`: is everything there, does the pair load, does the server answer, what to do."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from ecdiff import __version__, pairs
from ecdiff.console import one_line
from ecdiff.plan import Site

if TYPE_CHECKING:
    from rich.table import Table

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "safetensors",
    "sentencepiece",
    "av",
    "pydantic",
    "httpx",
    "websockets",
    "fastapi",
    "uvicorn",
    "pillow",
)


@dataclass(frozen=True)
class Finding:
    name: str
    ok: bool | None  # None: not asked for
    found: str
    advice: str = ""  # what to do, where it is not ok


def examine(pair: str, cloud: str | None, token: str | None) -> Iterator[Finding]:
    """Each check as it is done. None of them raises."""
    yield Finding("ecdiff", True, f"{__version__} on Python {platform.python_version()}")
    for package in PACKAGES:
        yield _package(package)
    yield _check("devices", _devices, "reinstall torch: https://pytorch.org/get-started/locally")
    for site in ("cloud", "edge"):
        yield _pair(pair, site)
    if cloud is None:
        yield Finding("server", None, "not asked: pass --cloud URL")
    else:
        advice = "start `ecdiff serve` there with the same --pair, and check address and token"
        yield _check("server", lambda: _server(pair, cloud, token), advice)


def _package(name: str) -> Finding:
    try:
        return Finding(name, True, version(name))
    except PackageNotFoundError:
        return Finding(name, False, "not installed", f"pip install {name}")


def _pair(pair: str, site: Site) -> Finding:
    advice = "use a pair that `ecdiff pairs` lists, or your own as docs/pairs.md shows"
    return _check(f"pair {pair}, {site} side", lambda: _load(pair, site), advice)


def _check(name: str, look: Callable[[], str], advice: str) -> Finding:
    try:
        return Finding(name, True, look())
    except Exception as error:  # whatever is broken: it is what was asked for
        return Finding(name, False, one_line(error), advice)


def _devices() -> str:
    import torch

    found = [f"cpu ({torch.get_num_threads()} threads)"]
    for index in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(index).total_memory / 2**30
        found.append(f"cuda:{index} ({torch.cuda.get_device_name(index)}, {memory:.0f} GiB)")
    if torch.backends.mps.is_available():
        found.append("mps")
    return ", ".join(found)


def _load(name: str, site: Site) -> str:
    pair = pairs.resolve(name)
    where, precision = pairs.place(pair=pair)
    pairs.load(pair, site, where, precision)
    return f"loads on {where} in {str(precision).removeprefix('torch.')}"


def _server(pair: str, url: str, token: str | None) -> str:
    from ecdiff.edge.client import Network

    wanted = pairs.fingerprint(pairs.resolve(pair))
    asyncio.run(Network(url, token).check_pair(wanted))
    return f"{url} serves {pair} ({wanted[:12]})"


def to_json(findings: Sequence[Finding]) -> dict[str, Any]:
    return {
        "ok": all(finding.ok is not False for finding in findings),
        "checks": [asdict(finding) for finding in findings],
    }


def table(findings: Sequence[Finding]) -> Table:
    from rich.table import Table

    words = {True: "[green]ok[/]", False: "[red]fails[/]", None: "-"}
    out = Table("check", "", "found", show_lines=False)
    for finding in findings:
        found = escape(finding.found)
        if finding.ok is False:
            found += f"\n-> {escape(finding.advice)}"
        out.add_row(escape(finding.name), words[finding.ok], found)
    return out
