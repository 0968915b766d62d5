"""Training runs: resuming equals not stopping, and averaged weights come and go."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ecdiff.reference.muon import orthogonalise
from ecdiff.reference.runs import Budget, Run, RunConfig


def _loss(net: nn.Module, generator: torch.Generator) -> torch.Tensor:
    x = torch.randn(4, 6, generator=generator)
    return (net(x) - x.sum(1, keepdim=True)).square().mean()


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.SiLU(), nn.Linear(8, 1))


def _config(out: Path, samples: int) -> RunConfig:
    return RunConfig(out, Budget(samples=samples), batch=4, warmup_steps=2)


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = _net()
    Run(_config(tmp_path / "whole", 40), {"net": whole}).train(lambda g: _loss(whole, g))

    stopped = _net()
    config = _config(tmp_path / "parts", 40)
    run = Run(config, {"net": stopped})

    def stop_at_step_5(g: torch.Generator) -> torch.Tensor:
        if run.step == 5:
            run.save()
            raise KeyboardInterrupt
        return _loss(stopped, g)

    try:
        run.train(stop_at_step_5)
    except KeyboardInterrupt:
        resumed = _net()
        again = Run(replace(config, resume=True), {"net": resumed})
        assert again.step == 5
        again.train(lambda g: _loss(resumed, g))
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_is_never_half_written(tmp_path: Path) -> None:
    run = Run(_config(tmp_path, 4), {"net": _net()})
    run.save()
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_averaged_weights_are_only_lent(tmp_path: Path) -> None:
    net = _net()
    run = Run(_config(tmp_path, 40), {"net": net})
    run.train(lambda g: _loss(net, g))
    for parameter in net.parameters():
        parameter.data += 1
    before = [p.clone() for p in net.parameters()]
    with run.averaged():
        assert not any(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_a_budget_ends_by_samples_or_by_minutes() -> None:
    assert Budget(samples=100).spent(50, 1e9) == 0.5
    assert Budget(minutes=2).spent(10**9, 60) == 0.5


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    for shape in ((8, 32), (32, 8)):
        g = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        values = torch.linalg.svdvals(orthogonalise(g))
        assert float(values.min()) > 0.6
        assert float(values.max()) < 1.3
