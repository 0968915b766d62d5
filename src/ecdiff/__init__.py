"""Edge-cloud collaborative diffusion inference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ecdiff.edge.pipeline import EdgeCloudPipeline
    from ecdiff.plan import Phase, Plan

__version__ = "0.1.0"
__all__ = ["EdgeCloudPipeline", "Phase", "Plan"]


def __getattr__(name: str) -> Any:
    """Public names are imported when first used: `ecdiff --help` needs no torch."""
    if name == "EdgeCloudPipeline":
        from ecdiff.edge.pipeline import EdgeCloudPipeline

        return EdgeCloudPipeline
    if name in ("Phase", "Plan"):
        from ecdiff import plan

        return getattr(plan, name)
    raise AttributeError(f"module 'ecdiff' has no attribute {name!r}")
