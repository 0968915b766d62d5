"""Muon (Jordan et al. 2024): momentum whose matrices are orthogonalised; fast on small networks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import nn


class Muon(torch.optim.Optimizer):
    """For weights of two dimensions or more; the first one is the matrix's rows.

    The update's root mean square is 0.2 lr, so that AdamW's learning rates and decay fit.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.01
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every weight; weights of one shape are orthogonalised together."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    by_shape[tuple(p.flatten(1).shape)].append(p)
            for shape, alike in by_shape.items():
                look_ahead = torch.stack([self._look_ahead(p, group["momentum"]) for p in alike])
                updates = orthogonalise(look_ahead) * (0.2 * max(shape) ** 0.5)
                for p, update in zip(alike, updates, strict=True):
                    p.mul_(1 - group["lr"] * group["decay"])
                    p.add_(update.view_as(p), alpha=-group["lr"])

    def _look_ahead(self, p: nn.Parameter, momentum: float) -> torch.Tensor:
        """Nesterov's momentum, as a matrix."""
        assert p.grad is not None
        velocity = self.state[p].setdefault("velocity", torch.zeros_like(p))
        velocity.lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(velocity, momentum).flatten(1)


def orthogonalise(g: torch.Tensor, rounds: int = 5) -> torch.Tensor:
    """About U V^T of each g = U S V^T, g [..., rows, columns], by Newton-Schulz iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = g.shape[-2] > g.shape[-1]
    x = g.mT if tall else g
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(rounds):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    x = x.to(g.dtype)
    result: torch.Tensor = x.mT if tall else x
    return result
