"""What the committed bits/dim of Improved DDPM's schedules and objectives must show, and the data they are of."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from etils import epath

from experiments.ddpm import iddpm_nll
from experiments.vdm import digit_bytes
from vdm_jax import data

RESULTS = Path(iddpm_nll.__file__).parent.parent / "results" / "iddpm_nll.json"


def committed() -> dict[str, list[float]]:
    """{row: bits/dim of every seed}, and of the gradients' rows their noise."""
    return {
        entry["name"]: [next(iter(run["measured"].values()))["mean"] for run in entry["runs"].values()]
        for entry in json.loads(RESULTS.read_text("utf-8"))["rows"]
    }


def test_bytes_spread_every_value_evenly_over_its_own(tmp_path: Path) -> None:
    """A byte is as large a part of [0, 1] as one of 17 values that it meets; those of one value are as likely."""
    spread = data.load("npz", "train", path=digit_bytes.file(epath.Path(tmp_path))).source.images
    digits = data.load("digits", "train").source.images
    low = spread * (17 / 256)
    assert np.all((low < digits + 1.0) & (low + 17 / 256 > digits)) and 250 < len(np.unique(spread)) <= 256
    black = np.bincount(spread[digits == 0])
    inner = black[:15]  # of 15.06
    assert np.all(np.abs(inner - inner.mean()) < 4 * np.sqrt(inner.mean()))


def test_all_rows_are_there() -> None:
    found, rows = committed(), iddpm_nll.rows("mini")
    assert list(found) == [row.name for row in rows]
    assert {row.name: len(found[row.name]) for row in rows} == {row.name: row.seeds or 3 for row in rows}


def test_the_hybrid_and_the_cosine_help_on_bytes_in_every_seed() -> None:
    found = committed()
    for schedule in iddpm_nll.SCHEDULES:
        simple, hybrid = (np.array(found[f"{schedule} β, L_{objective}"]) for objective in ("simple", "hybrid"))
        assert np.all(hybrid < simple - 0.05)
    for objective in ("simple", "hybrid"):
        linear, cosine = (np.array(found[f"{schedule} β, L_{objective}"]) for schedule in iddpm_nll.SCHEDULES)
        assert np.all(cosine < linear - 0.03)


def test_seventeen_values_turn_the_schedules_round() -> None:
    found = committed()
    for objective in iddpm_nll.OBJECTIVES:
        linear, cosine = (found[f"{iddpm_nll.CONTROL}{schedule} β, L_{objective}"] for schedule in iddpm_nll.SCHEDULES)
        assert cosine[0] > linear[0] + 0.2


def test_importance_makes_gradients_of_the_bound_quiet() -> None:
    found = committed()
    uniform, importance = (np.array(found[f"gradient of L_vlb, {kind} levels"]) for kind in ("uniform", "importance"))
    assert np.all(importance < uniform / 10)
