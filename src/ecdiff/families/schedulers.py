"""The schedulers a trajectory may own, and the part of their state that must travel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from torch import Tensor

from ecdiff.errors import InputError, PayloadError

CLASSES: dict[str, Any] = {
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
    "dpm++": DPMSolverMultistepScheduler,  # 2M: its defaults are dpmsolver++ of order 2
}


def make_scheduler(name: str, config: Mapping[str, Any], steps: int) -> Any:
    """A scheduler of the model's own configuration, set to `steps` steps.

    Raises InputError when the model has too few training timesteps for `steps`.
    """
    scheduler = CLASSES[name].from_config(dict(config))
    trained = scheduler.config.num_train_timesteps
    if steps > trained:
        raise InputError(f"{steps} steps: this model was trained on {trained} timesteps, use fewer")
    scheduler.set_timesteps(steps)
    if scheduler.timesteps.max() >= trained:  # its offset pushes the first one over the end
        raise InputError(f"{steps} steps: too many for this model's scheduler, use fewer")
    return scheduler


def place_at(scheduler: Any, step: int, state: Mapping[str, Tensor], device: torch.device) -> None:
    """Set a fresh scheduler's cursor to `step` and give it its multistep history back.

    An empty `state` starts a multistep scheduler at order 1. Raises PayloadError for a history
    that this scheduler does not keep.
    """
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(step)
    if hasattr(scheduler, "is_scale_input_called"):
        scheduler.is_scale_input_called = True  # a step may be extrapolated: no input to scale
    for name, tensor in state.items():
        place = _history_place(scheduler, name)
        scheduler.model_outputs[place] = tensor.to(device)
        scheduler.lower_order_nums += 1


def state_of(scheduler: Any) -> dict[str, Tensor]:
    """The earlier x0 predictions that the next update reads: `x0-1` the newest, `x0-2`, ..."""
    outputs = getattr(scheduler, "model_outputs", [])
    needed = range(1, len(outputs))  # the oldest is overwritten before it is read
    return {f"x0-{back}": outputs[-back] for back in needed if outputs[-back] is not None}


def _history_place(scheduler: Any, name: str) -> int:
    places = {
        f"x0-{back}": -back for back in range(1, len(getattr(scheduler, "model_outputs", [])))
    }
    if name not in places:
        raise PayloadError(
            f"scheduler history {name!r}: {type(scheduler).__name__} keeps "
            f"{', '.join(places) or 'none'}"
        )
    return places[name]
