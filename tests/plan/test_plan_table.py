"""The committed table of what configs cost, against numbers that are known otherwise."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

from experiments import plan_table
from vdm_jax.config import packaged

RESULTS = pathlib.Path(plan_table.__file__).parent / "results" / "plan_table.json"


def measured() -> dict[str, dict[str, float]]:
    rows: list[dict[str, Any]] = json.loads(RESULTS.read_text("utf-8"))["rows"]
    return {row["name"]: {k: v["mean"] for k, v in row["measured"].items()} for row in rows}


def test_every_config_has_a_row_at_paper_size_or_says_that_it_has_none() -> None:
    planned = {row.config["file"] for row in plan_table.rows("paper")}
    unplanned = {name for name, path in packaged().items() if "not yet planned" in path.read_text("utf-8")}
    assert planned | unplanned == set(packaged()) and not planned & unplanned
    assert {row.name for row in plan_table.rows("paper")} == set(measured())


@pytest.mark.parametrize(
    ("config", "count"), [("cifar10", 30_578_181), ("imagenet32", 122_137_605), ("imagenet64", 237_603_845)]
)
def test_models_have_the_paper_s_number_of_parameters(config: str, count: int) -> None:
    found = [m["parameters"] for name, m in measured().items() if name.startswith(f"{config} on")]
    assert found
    assert set(found) == {count}


def test_work_does_not_depend_on_the_slice_and_cost_is_hours_times_chips() -> None:
    rows = measured()
    for config in ("cifar10", "imagenet64"):
        assert len({m["tflop_a_step"] for name, m in rows.items() if name.startswith(f"{config} on")}) == 1
    for m in rows.values():
        if "step_ms" in m:
            assert m["hours"] == pytest.approx(m["steps"] * m["step_ms"] / 3.6e6)
            assert m["step_ms"] == pytest.approx(max(m["compute_ms"], m["memory_ms"]) + m["links_ms"])
            assert m["chip_hours"] > m["hours"] > 0


def test_recomputation_makes_room() -> None:
    rows = measured()
    plain, again = rows["cifar10 on v5e:2x4"], rows["cifar10 on v5e:2x4, remat full"]
    assert again["fits"]
    assert again["gib_a_device"] < plain["gib_a_device"] / 2
    assert 1.1 < again["compute_ms"] / plain["compute_ms"] < 4 / 3


@pytest.mark.parametrize(
    ("hours", "text"),
    [
        (371_621.3, "372,000 chip-hours"),
        (17.06, "17.1 chip-hours"),
        (480, "480 chip-hours"),
        (1.07e-4, "0.000107 chip-hours"),
    ],
)
def test_chip_hours_have_three_digits(hours: float, text: str) -> None:
    assert plan_table.in_chip_hours(hours) == text
