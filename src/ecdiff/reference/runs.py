"""One training run: budget, learning-rate schedule, EMA, and checkpoints that survive a kill.

Every random draw of step `n` comes from a generator seeded with `n`, so that a resumed run goes on
exactly where the last checkpoint left it.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ecdiff.reference.muon import Muon

Defaults = dict[str, tuple[int, float]]  # part to batch and peak learning rate, see muon.py


@dataclass(frozen=True)
class Budget:
    """How long a run lasts: `samples` seen or `minutes` of training time; one of the two."""

    samples: int | None = None
    minutes: float | None = None

    def spent(self, samples: int, seconds: float) -> float:
        """The share of the budget used so far; 1 or more means the run is over."""
        if self.samples is not None:
            return samples / self.samples
        return seconds / 60 / (self.minutes or 1.0)


@dataclass(frozen=True)
class RunConfig:
    """How a run goes: folder, budget, device, and the usual numbers of an optimiser."""

    out: Path
    budget: Budget
    device: str = "cpu"
    batch: int = 64
    lr: float = 1e-3
    warmup_steps: int = 50
    final_lr: float = 0.02  # share of `lr` left at the end of the cosine
    ema: float = 0.999
    resume: bool = False
    checkpoint_seconds: float = 120.0
    picture_seconds: float = 900.0


def command_line(
    prog: str, description: str | None, defaults: Defaults, weights: Path
) -> argparse.ArgumentParser:
    """The options of every training command; `weights` is where it starts unless told."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("part", choices=list(defaults))
    parser.add_argument("--out", type=Path, required=True, help="checkpoint, progress and weights")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="training time of this run")
    length.add_argument("--samples", type=int, help="samples of this run")
    parser.add_argument("--resume", action="store_true", help="go on from OUT's checkpoint")
    parser.add_argument("--fresh", action="store_true", help="do not start from trained weights")
    parser.add_argument("--start", type=Path, default=weights, help="weights folder to start from")
    parser.add_argument("--decoder-only", action="store_true", help="vae: keep the latents")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch", type=int, help="default: by part")
    parser.add_argument("--lr", type=float, help="peak learning rate; default: by part")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    return parser


def config_of(args: argparse.Namespace, defaults: Defaults) -> RunConfig:
    """What `command_line` read, as a run's configuration; also sets threads and seed."""
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)  # untrained weights
    batch, lr = defaults[args.part]
    return RunConfig(
        out=args.out,
        budget=Budget(args.samples, args.minutes),
        device=args.device,
        batch=args.batch or batch,
        lr=args.lr or lr,
        resume=args.resume,
    )


def save_whole(state: object, path: Path) -> None:
    """`torch.save` to a second file, then renamed: a killed run leaves no half-written one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


class Run:
    """A training run over some modules: owns the optimiser, the EMA copy and the checkpoint."""

    def __init__(self, config: RunConfig, modules: dict[str, nn.Module]) -> None:
        self.config = config
        self.modules = nn.ModuleDict(modules).to(config.device)
        named = [(n, p) for n, p in self.modules.named_parameters() if p.requires_grad]
        matrices = [p for n, p in named if p.ndim > 1 and "embedding.weight" not in n]
        others = [p for n, p in named if p.ndim <= 1 or "embedding.weight" in n]
        self.params = matrices + others
        self.optimizers = (
            Muon(matrices, config.lr),
            torch.optim.AdamW(others, config.lr, (0.9, 0.99), weight_decay=0.0),
        )
        self.ema = {k: v.detach().clone() for k, v in self.modules.state_dict().items()}
        self.step = 0  # changes every step
        self.seconds = 0.0  # training time, over all resumes
        config.out.mkdir(parents=True, exist_ok=True)
        if config.resume and self.checkpoint_path.exists():
            self._load()

    @property
    def checkpoint_path(self) -> Path:
        """Where the one checkpoint of this run lives."""
        return self.config.out / "checkpoint.pt"

    def train(
        self,
        loss_of_step: Callable[[torch.Generator], torch.Tensor],
        draw: Callable[[Run], None] | None = None,
    ) -> None:
        """Step until the budget is spent; the modules end up holding the averaged weights.

        `draw` is called every few minutes and at the end.
        """
        config, saved, drawn = self.config, time.monotonic(), time.monotonic()
        logged, losses = self.seconds, []
        while (spent := config.budget.spent(self.step * config.batch, self.seconds)) < 1:
            began = time.monotonic()
            lr = self._lr(spent)
            loss = loss_of_step(torch.Generator().manual_seed(self.step))
            self._update(loss, lr)
            self._update_ema()
            self.step += 1
            losses.append(float(loss.detach()))
            self.seconds += time.monotonic() - began
            if self.seconds - logged > 20:
                self._log(losses, lr)
                logged, losses = self.seconds, []
            if time.monotonic() - saved > config.checkpoint_seconds:
                self.save()
                saved = time.monotonic()
            if draw and time.monotonic() - drawn > config.picture_seconds:
                draw(self)
                drawn = time.monotonic()
        self.save()
        if draw:
            draw(self)
        self.modules.load_state_dict(self.ema)
        self.modules.eval()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """While this lasts, the modules hold the averaged weights and are in eval mode."""
        kept = {k: v.clone() for k, v in self.modules.state_dict().items()}
        self.modules.load_state_dict(self.ema)
        self.modules.eval()
        yield
        self.modules.load_state_dict(kept)
        self.modules.train()

    def save(self) -> None:
        """Write the checkpoint over the old one."""
        state = {
            "modules": self.modules.state_dict(),
            "ema": self.ema,
            "optimizers": [o.state_dict() for o in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
        }
        save_whole(state, self.checkpoint_path)

    def _load(self) -> None:
        state: dict[str, Any] = torch.load(
            self.checkpoint_path, map_location=self.config.device, weights_only=True
        )
        self.modules.load_state_dict(state["modules"])
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        self.ema, self.step, self.seconds = state["ema"], state["step"], state["seconds"]
        print(f"resumed at step {self.step}, after {self.seconds / 60:.1f} minutes", flush=True)

    def _update(self, loss: torch.Tensor, lr: float) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.params, 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()

    def _lr(self, spent: float) -> float:
        """Linear warm-up, then half a cosine over the budget."""
        c = self.config
        decay = c.final_lr + (1 - c.final_lr) * 0.5 * (1 + math.cos(math.pi * min(spent, 1)))
        return c.lr * min(1.0, (self.step + 1) / c.warmup_steps) * decay

    @torch.no_grad()
    def _update_ema(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        for key, value in self.modules.state_dict().items():
            if value.is_floating_point():
                self.ema[key].lerp_(value, 1 - decay)
            else:
                self.ema[key].copy_(value)

    def _log(self, losses: list[float], lr: float) -> None:
        samples = self.step * self.config.batch
        print(
            f"{self.seconds / 60:6.1f} min  step {self.step:6d}  samples {samples:8d}  "
            f"{samples / self.seconds:6.1f}/s  loss {sum(losses) / len(losses):.4f}  "
            f"lr {lr:.2e}",
            flush=True,
        )
