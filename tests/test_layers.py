"""The layers of the package: imports go down only, and only some modules know diffusers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import ecdiff

PACKAGE = Path(ecdiff.__file__).parent
LAYERS: list[set[str]] = [  # lowest first; modules of one layer do not know each other
    {"errors", "quiet"},
    {"validate"},
    {"plan", "request", "quality", "sources"},
    {"extrapolate", "pictures", "console", "pairfile"},
    {"trajectory", "clips"},
    {"handoff", "families"},
    {"pairs", "relay", "measure"},
    {"cloud", "edge", "drawer"},
    {"reference", "planfile"},
    {"prompts"},
    {"tune", "launch"},
    {"bench"},
    {"generation"},
    {"compare", "doctor"},
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
KNOW_DIFFUSERS = {"families", "reference", "doctor", "quality", "quiet"}  # quality: CLIP alone


def modules() -> Iterator[tuple[str, Path]]:
    """Each file with the top-level module or folder of the package that it belongs to."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if name != "__init__":
            yield name, path


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_every_module_has_a_layer() -> None:
    assert {name for name, _ in modules()} <= set(RANK)


def test_imports_go_down_only() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {target}"
        for name, path in modules()
        for full in imports(path)
        if full.startswith("ecdiff.")
        and (target := full.split(".")[1]) in RANK
        and target != name
        and RANK[target] >= RANK[name]
    ]
    assert wrong == []


def test_only_families_and_the_reference_pair_know_diffusers() -> None:
    wrong = [
        str(path.relative_to(PACKAGE))
        for name, path in modules()
        if name not in KNOW_DIFFUSERS
        and any(full.split(".")[0] in ("diffusers", "transformers") for full in imports(path))
    ]
    assert wrong == []


def test_public_names() -> None:
    assert ecdiff.__all__ == ["EdgeCloudPipeline", "Phase", "Plan"]
    assert all(getattr(ecdiff, name) for name in ecdiff.__all__)
