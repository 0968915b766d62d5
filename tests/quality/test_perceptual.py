"""LPIPS: its structure on random weights, and the reference implementation where that is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from ecdiff.errors import InputError
from ecdiff.quality import lpips, per_frame
from ecdiff.quality.perceptual import BACKBONES, Lpips, find_weights

LAYERS = {"alex": 5, "vgg": 13}


def a_pair(side: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    a = torch.rand((3, 3, side, side), generator=g)
    strength = torch.tensor([0.0, 0.05, 0.5]).view(3, 1, 1, 1)
    return a, (a + strength * torch.randn(a.shape, generator=g)).clamp(0, 1)


@pytest.fixture(params=["alex", "vgg"])
def weights(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path, Path]:
    """Random weights, laid out as torchvision's and `lpips`' files are."""
    net = request.param
    torch.manual_seed(1)
    model = Lpips(net)
    backbone = {f"features.{name}": value for name, value in model.features.state_dict().items()}
    backbone["classifier.1.weight"] = torch.zeros(2, 2)
    linear = {
        f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1)
        for i, width in enumerate(BACKBONES[net].widths)
    }
    torch.save(backbone, tmp_path / "backbone.pth")
    torch.save(linear, tmp_path / "linear.pth")
    return net, tmp_path / "backbone.pth", tmp_path / "linear.pth"


def test_equal_pictures_are_at_0_and_order_is_kept(weights: tuple[str, Path, Path]) -> None:
    a, b = a_pair()
    there, back = lpips(a, b, *weights), lpips(b, a, *weights)
    assert there.shape == (3,)
    assert there[0] == 0
    assert 0 < there[1] < there[2]
    assert torch.allclose(there, back)
    assert torch.allclose(lpips(a[2:], b[2:], *weights), there[2:], atol=1e-6)


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_the_network_is_the_papers(net: str) -> None:
    model = Lpips(net)  # type: ignore[arg-type]
    convolutions = [m for m in model.features if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == LAYERS[net]
    assert all(isinstance(model.features[tap], torch.nn.ReLU) for tap in model.taps)
    assert len(model.features) == model.taps[-1] + 1
    seen: list[int] = []
    for tap in model.taps:
        model.features[tap].register_forward_hook(lambda m, i, out: seen.append(out.shape[1]))
    model(*a_pair())
    assert tuple(seen) == BACKBONES[net].widths


def test_only_directions_of_features_count(weights: tuple[str, Path, Path]) -> None:
    """Features are normalised: a linear weight of 1 bounds each layer's distance by 4."""
    net, backbone, linear = weights
    ones = {name: torch.ones_like(value) for name, value in torch.load(linear).items()}
    torch.save(ones, linear.with_name("ones.pth"))
    a, b = a_pair()
    distance = lpips(a, b, net, backbone, linear.with_name("ones.pth"))  # type: ignore[arg-type]
    assert (distance <= 4 * len(BACKBONES[net].taps)).all()


def plain_lpips(a: torch.Tensor, b: torch.Tensor, backbone: Path, linear: Path) -> torch.Tensor:
    """LPIPS with AlexNet, one operation at a time, in double precision."""
    weights = {name: value.double() for name, value in torch.load(backbone).items()}
    heads = [value.double() for value in torch.load(linear).values()]
    mean, spread = [-0.03, -0.088, -0.188], [0.458, 0.448, 0.45]
    features = []
    for x in (a.double(), b.double()):
        planes = [(2 * x[:, c] - 1 - mean[c]) / spread[c] for c in range(3)]
        x, found = torch.stack(planes, 1), []
        for index, stride, padding in [(0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1)]:
            if index in (3, 6):
                x = F.max_pool2d(x, 3, 2)
            kernel, bias = (weights[f"features.{index}.{kind}"] for kind in ("weight", "bias"))
            x = F.conv2d(x, kernel, bias, stride, padding).clamp(min=0)
            found.append(x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-10))
        features.append(found)
    layers = zip(*features, heads, strict=True)
    return sum(F.conv2d((x - y) ** 2, head).mean((1, 2, 3)) for x, y, head in layers)  # type: ignore[return-value]


@pytest.mark.parametrize("weights", ["alex"], indirect=True)
def test_it_equals_a_plain_implementation(weights: tuple[str, Path, Path]) -> None:
    a, b = a_pair()
    expected = plain_lpips(a, b, *weights[1:])
    assert torch.allclose(lpips(a, b, *weights).double(), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("weights", ["alex"], indirect=True)
def test_a_clip_is_the_mean_of_its_frames(weights: tuple[str, Path, Path]) -> None:
    a, b = (x.unflatten(0, (1, 3)) for x in a_pair())
    found = per_frame(lambda x, y: lpips(x, y, *weights), a, b)
    assert torch.allclose(found, lpips(a[0], b[0], *weights).mean(0, keepdim=True))


def test_without_weights_it_says_where_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    a, b = a_pair()
    with pytest.raises(InputError) as caught:
        lpips(a, b, "vgg")
    said = str(caught.value)
    assert "vgg16-397923af.pth" in said
    assert "https://download.pytorch.org" in said
    assert str(tmp_path) in said
    assert "\n" not in said


def test_other_files_are_refused(tmp_path: Path, weights: tuple[str, Path, Path]) -> None:
    net, backbone, linear = weights
    a, b = a_pair()
    with pytest.raises(InputError, match="are not LPIPS weights"):
        lpips(a, b, net, linear, backbone)  # type: ignore[arg-type]
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(InputError, match="cannot read weights"):
        lpips(a, b, net, tmp_path / "text.pth", linear)  # type: ignore[arg-type]
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    with pytest.raises(InputError, match="no weights by name"):
        lpips(a, b, net, tmp_path / "list.pth", linear)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="32x32"):
        lpips(a[..., :16], b[..., :16], net, backbone, linear)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one shape"):
        lpips(a, b[:2], net, backbone, linear)  # type: ignore[arg-type]


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_the_reference_implementation_says_the_same(net: str) -> None:
    reference = pytest.importorskip("lpips")
    try:
        find_weights(net)  # type: ignore[arg-type]
    except InputError as error:
        pytest.skip(str(error))
    a, b = a_pair()
    expected = reference.LPIPS(net=net, verbose=False)(a * 2 - 1, b * 2 - 1).flatten()
    assert torch.allclose(lpips(a, b, net), expected, atol=1e-5)  # type: ignore[arg-type]
