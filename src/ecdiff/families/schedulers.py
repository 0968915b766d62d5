"""The schedulers a trajectory may own: what travels of them, one step, and their arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
)
from torch import Tensor

from ecdiff.errors import InputError, PayloadError
from ecdiff.trajectory import Trajectory

IMAGE_CLASSES: dict[str, Any] = {
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
    "dpm++": DPMSolverMultistepScheduler,  # 2M: its defaults are dpmsolver++ of order 2
    "lcm": LCMScheduler,
}
COGVIDEOX_CLASSES: dict[str, Any] = {"ddim": CogVideoXDDIMScheduler, "dpm": CogVideoXDPMScheduler}
STOCHASTIC = (LCMScheduler, CogVideoXDPMScheduler)


def make_scheduler(kind: Any, config: Mapping[str, Any], steps: int) -> Any:
    """A scheduler of class `kind` with the model's own configuration, set to `steps` steps.

    Raises InputError when the model has too few training timesteps for `steps`.
    """
    scheduler = kind.from_config(dict(config))
    trained = scheduler.config.num_train_timesteps
    if steps > trained:
        raise InputError(f"{steps} steps: this model was trained on {trained} timesteps, use fewer")
    try:
        scheduler.set_timesteps(steps)
    except ValueError as error:  # LCM: more steps than it was distilled for
        raise InputError(f"{steps} steps: {str(error).splitlines()[0]}") from error
    if hasattr(scheduler, "alphas_cumprod") and scheduler.timesteps.max() >= trained:
        # its offset pushes the first timestep over the table's end
        raise InputError(f"{steps} steps: too many for this model's scheduler, use fewer")
    if kind is CogVideoXDPMScheduler:  # it leaves its memory to the caller: keep it as 2M does
        scheduler.model_outputs, scheduler.lower_order_nums = [None, None], 0
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


def take_step(t: Trajectory, output: Tensor) -> None:
    """One update of `t.latents` with the network's guided `output`, counting the noise drawn."""
    scheduler = t.scheduler
    if isinstance(scheduler, CogVideoXDPMScheduler):
        past, earlier = scheduler.model_outputs[-1], None
        if t.step > 0:
            earlier = scheduler.timesteps[t.step - 1]
        stride = scheduler.config.num_train_timesteps // scheduler.num_inference_steps
        last = int(t.timestep) < stride
        t.latents, scheduler.model_outputs[-1] = scheduler.step(
            output, past, t.timestep, earlier, t.latents, generator=t.generator, return_dict=False
        )
        t.draws += 1 if past is None or last else 2
        return
    kwargs = {"generator": t.generator} if isinstance(scheduler, LCMScheduler) else {}
    t.latents = scheduler.step(output, t.timestep, t.latents, return_dict=False, **kwargs)[0]
    if isinstance(scheduler, LCMScheduler) and t.step + 1 < t.plan.steps:
        t.draws += 1


def network_input(t: Trajectory) -> Tensor:
    """The latents as the network is shown them: of unit power, where the scheduler's are not."""
    if not hasattr(t.scheduler, "scale_model_input"):  # those of flow models
        return t.latents
    scaled: Tensor = t.scheduler.scale_model_input(t.latents, t.timestep)
    return scaled


def alpha_bar(scheduler: Any, step: int) -> Tensor:
    """The share of the signal's power in the latents before `step`: abar."""
    if isinstance(scheduler, EulerDiscreteScheduler):
        bar: Tensor = 1 / (scheduler.sigmas[step] ** 2 + 1)
    else:
        bar = scheduler.alphas_cumprod[int(scheduler.timesteps[step])]
    return bar.to(scheduler.timesteps.device)


def estimate(t: Trajectory, output: Tensor) -> tuple[Tensor, Tensor]:
    """(x0, epsilon) that the network's `output` of this step stands for.

    x0 is infinite where abar is 0 and the network predicts epsilon.
    """
    x = network_input(t)
    bar = alpha_bar(t.scheduler, t.step).to(x.device)
    signal, noise = bar.sqrt(), (1 - bar).sqrt()
    kind = t.scheduler.config.prediction_type
    if kind == "v_prediction":
        return signal * x - noise * output, noise * x + signal * output
    if kind == "sample":
        return output, (x - signal * output) / noise
    return (x - noise * output) / signal, output


def output_for(t: Trajectory, eps: Tensor) -> Tensor:
    """The network output that stands for `eps`: the inverse of `estimate`, where abar > 0."""
    kind = t.scheduler.config.prediction_type
    if kind == "epsilon":
        return eps
    x = network_input(t)
    bar = alpha_bar(t.scheduler, t.step).to(x.device)
    signal, noise = bar.sqrt(), (1 - bar).sqrt()
    output: Tensor = (eps - noise * x) / signal  # v
    return output if kind == "v_prediction" else (x - noise * eps) / signal
