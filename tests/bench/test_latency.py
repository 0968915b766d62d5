"""The real configurations: their parameter counts, their pairs, and the whole benchmark small."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from ecdiff import pairs
from ecdiff.bench import architectures, table6
from ecdiff.bench.__main__ import app
from ecdiff.bench.architectures import config_of, data
from ecdiff.bench.latency import seconds_of
from ecdiff.errors import PairError
from ecdiff.plan import Plan, plan_for, split

KNOWN = [name for name, entry in data()["pairs"].items() if "unknown" not in entry]
PUBLISHED = {  # millions, as their papers and model cards state them
    "sd14": (859.52, 0.01),
    "bk-sdm-small": (482, 1),
    "bk-sdm-tiny": (323, 1),
    "sdxl": (2567, 1),
    "ssd-1b": (1300, 50),
    "vega": (745, 1),
    "cogvideox-2b": (1690, 10),
    "cogvideox-5b": (5570, 10),
    "sd-vae": (83.65, 0.01),
    "sdxl-vae": (83.65, 0.01),
    "cogvideox-2b-vae": (215.6, 0.1),
    "cogvideox-5b-vae": (215.6, 0.1),
    "clip-l": (123.06, 0.01),
    "clip-bigg": (694.66, 0.01),
    "t5-xxl": (4762, 1),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts(name: str) -> None:
    found = architectures.count(name)
    millions, tolerance = PUBLISHED[name]
    print(f"\n{name}: {found:,}")
    assert found == data()["components"][name]["parameters"]
    assert found / 1e6 == pytest.approx(millions, abs=tolerance)


def test_every_component_has_a_published_count() -> None:
    assert PUBLISHED.keys() == data()["components"].keys()


def vae_of(parts: dict[str, str], smallest: bool) -> dict[str, Any]:
    return config_of(parts["vae"], smallest)


def network_of(parts: dict[str, str], smallest: bool) -> dict[str, Any]:
    return config_of(parts.get("unet") or parts["transformer"], smallest)


def text_width(network: dict[str, Any]) -> int:
    width: int = network.get("cross_attention_dim") or network["text_embed_dim"]
    return width


@pytest.mark.parametrize("smallest", [False, True])
@pytest.mark.parametrize("pair", KNOWN)
def test_the_sides_of_a_pair_fit(pair: str, smallest: bool) -> None:
    entry = data()["pairs"][pair]
    cloud, edge = entry["cloud"], entry["edge"]
    networks = [network_of(parts, smallest) for parts in (cloud, edge)]
    vaes = [vae_of(parts, smallest) for parts in (cloud, edge)]
    assert text_width(networks[0]) == text_width(networks[1])
    channels = [network.get("in_channels", 4) for network in networks]
    assert channels == [vae["latent_channels"] for vae in vaes]
    assert channels[0] == channels[1]
    assert len(vaes[0]["block_out_channels"]) == len(vaes[1]["block_out_channels"])
    same_scale = vaes[0]["scaling_factor"] == vaes[1]["scaling_factor"]
    same_schedule = (
        data()["schedulers"][cloud["scheduler"]] == data()["schedulers"][edge["scheduler"]]
    )
    assert same_scale == same_schedule == (pair != "cogvideox-5b-2b")  # that one is converted


@pytest.mark.parametrize("pair", KNOWN)
def test_the_kept_networks_are_those_of_the_named_pair(pair: str) -> None:
    """Its sizes and plan come from `pairs`, its networks from here: they must fit."""
    entry, named = data()["pairs"][pair], pairs.resolve(pair)
    assert (named.frames is not None) == (entry["family"] == "cogvideox")
    plan = plan_for("ec-diff", 50, named.defaults)
    assert plan.steps == 50
    sizes = {"sd": (512, 512, None), "sdxl": (1024, 1024, None), "cogvideox": (480, 720, 49)}
    assert (named.height, named.width, named.frames) == sizes[entry["family"]]


def plans() -> dict[str, Plan]:
    """SDXL and Vega's, by Table 5."""
    return {
        table6.HYBRID_10: split(50, 40),
        table6.HYBRID_25: split(50, 25),
        table6.EC_DIFF: split(50, 36, 6, 5, 0.2),
    }


def test_arithmetic_on_the_papers_table() -> None:
    """Sums done by hand from Table 6."""
    ten, five, ours = table6.check("sdxl-vega", plans())
    assert ten.steps == pytest.approx(0.8 * 6.25 + 0.2 * 3.27)
    assert ten.with_transfer - ten.steps == pytest.approx(744 * 1024 * 8 / 18.88e6)
    assert "without the 0.32 s of transfer" in ten.verdict
    assert "without the 0.32 s of transfer" in five.verdict
    assert ours.verdict == "its steps and its transfer"  # 11 and 14 evaluated steps
    one_b = plans() | {table6.EC_DIFF: split(50, 30, 6, 5, 0.2)}
    assert "cannot be reproduced: 0.20 s less" in table6.check("sdxl-ssd1b", one_b)[2].verdict
    row = table6.PAPER["cogvideox-5b-2b"]
    assert row.claimed_bytes // 1024 == 4122
    assert row.true_bytes == 2 * (13 * 16 * 60 * 90 + 2 * 226 * 4096)
    shown = "\n".join(table6.lines("cogvideox-5b-2b", plans()))
    assert "13 latent frames, not 3" in shown


def test_a_total_is_the_sum_over_the_plan() -> None:
    times = {"cloud": 3.0, "edge": 1.0, "extrapolated": 0.25, "encode": 0.5, "decode": 2.0}
    plan = split(50, 36, 6, 5, 0.2)
    assert seconds_of(plan, times) == 0.5 + 11 * 3 + 25 * 0.25 + 14 * 1 + 2


@pytest.mark.parametrize("pair", ["sd14-bksdm-tiny", "sdxl-vega", "cogvideox-5b-2b"])
def test_the_smallest_run(pair: str) -> None:
    words = ["latency", "--pair", pair, "--smallest", "--rounds", "2", "--device", "cpu"]
    result = CliRunner().invoke(app, words)
    assert (result.exit_code, result.stderr) == (0, "")
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["smallest"] is True
    assert "SMALLEST" in result.stdout
    rows = {row["name"]: row for row in report["rows"]}
    assert list(rows) == [
        table6.CLOUD, table6.EDGE, table6.HYBRID_10, table6.HYBRID_25, table6.EC_DIFF
    ]  # fmt: skip
    for name, row in rows.items():
        assert row["paper_seconds"] == table6.PAPER[pair].seconds[name]
        sent = row["seconds_with_transfer"] - row["seconds"]
        travels = name not in (table6.CLOUD, table6.EDGE)
        assert sent == pytest.approx(
            report["payload_bytes"] * 8 / 18.88e6 if travels else 0, abs=2e-4
        )
    assert rows[table6.EC_DIFF]["extrapolated"] > 10
    assert rows[table6.EC_DIFF]["seconds"] < rows[table6.CLOUD]["seconds"]


def test_the_real_sizes_need_a_gpu() -> None:
    result = CliRunner().invoke(app, ["latency", "--pair", "sdxl-vega", "--device", "cpu"])
    assert result.exit_code == 2
    assert "--smallest" in result.stderr


def test_a_network_that_is_not_known_is_not_invented() -> None:
    with pytest.raises(PairError, match="pruned channel by channel"):
        architectures.pair_parts("sd14-hybridsd224")
