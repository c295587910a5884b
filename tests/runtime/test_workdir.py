"""Going on in a directory: with the data and the learning rate it began with, or not at all."""

from __future__ import annotations

import json
from typing import Any

import jax
import pytest
from etils import epath
from ml_collections import ConfigDict

from tests.training.runs import points
from vdm_jax import data
from vdm_jax.config import choose
from vdm_jax.errors import UserError
from vdm_jax.runtime import workdir

IDENTITY = {"name": "folder", "version": "folder:cats:0123 train/", "examples": 90}


@pytest.fixture
def directory(tmp_path: Any) -> epath.Path:
    """Claimed by the tiny config for IDENTITY, with a checkpoint."""
    place = epath.Path(tmp_path) / "run"
    workdir.claim(place, points(), IDENTITY)
    (place / "checkpoints" / "3").mkdir(parents=True)
    return place


def record(directory: epath.Path) -> dict[str, Any]:
    saved: dict[str, Any] = json.loads((directory / "config.json").read_text())
    return saved


def test_identity_of_a_data_set_says_which_bytes_it_is() -> None:
    assert data.load("digits", "train").identity == {
        "name": "digits",
        "version": "uci-optdigits-test (scikit-learn order) 1,500/297",
        "examples": 1500,
    }


def test_the_same_data_and_a_new_directory_are_accepted(directory: epath.Path, tmp_path: Any) -> None:
    workdir.check_resume(directory, points(), dict(IDENTITY))
    workdir.check_resume(epath.Path(tmp_path) / "new", points(), IDENTITY)


@pytest.mark.parametrize("change", [{"version": "folder:cats:4567 train/"}, {"examples": 91}])
def test_other_data_is_refused_and_both_are_named(directory: epath.Path, change: dict[str, Any]) -> None:
    with pytest.raises(UserError) as raised:
        workdir.check_resume(directory, points(), IDENTITY | change)
    for told in (IDENTITY, IDENTITY | change):
        assert f"folder ({told['version']}, {told['examples']} examples)" in str(raised.value)
    assert "use a new --workdir" in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("result", ["", "checkpoints/3", "samples/3.png", "evals/a.json", "eval.json"])
def test_a_directory_without_results_takes_another_config(tmp_path: Any, result: str) -> None:
    place, other = epath.Path(tmp_path), points()
    other.model.width *= 2
    workdir.claim(place, points(), IDENTITY)
    (place / "checkpoints" / "3.orbax-checkpoint-tmp").mkdir(parents=True)  # killed before its first checkpoint
    if result:
        (place / result).parent.mkdir(parents=True, exist_ok=True)
        (place / result).write_text("")
        with pytest.raises(UserError, match=r"belongs to another config \(model\.width: 8 → 16\)"):
            workdir.check_same(place, other)
    else:
        workdir.check_same(place, other)
        workdir.check_resume(place, other, IDENTITY | {"examples": 91})


def test_directory_of_before_this_record_is_accepted_and_gets_it(directory: epath.Path) -> None:
    old = record(directory)
    del old["data"]
    workdir.write_json(directory / "config.json", old)
    workdir.check_resume(directory, points(), IDENTITY)
    workdir.claim(directory, points(), IDENTITY)
    assert record(directory)["data"] == IDENTITY


def test_claim_without_data_keeps_what_is_recorded(directory: epath.Path) -> None:
    workdir.claim(directory, points())
    assert record(directory)["data"] == IDENTITY


def test_only_process_0_claims(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    workdir.claim(epath.Path(tmp_path) / "run", points(), IDENTITY)
    assert not (tmp_path / "run").exists()


def cosine(num_steps: int) -> ConfigDict:
    config = choose(points(), {"optimizer.decay": "cosine"})
    config.training.num_steps = num_steps
    return config


def test_num_steps_may_not_change_where_the_learning_rate_follows_it(tmp_path: Any) -> None:
    place = epath.Path(tmp_path)
    workdir.claim(place, cosine(12), IDENTITY)
    (place / "checkpoints" / "3").mkdir(parents=True)
    workdir.check_resume(place, cosine(12), IDENTITY)
    with pytest.raises(UserError, match=r"num_steps: 12 → 24 would make the learning rate jump.*--weights=") as raised:
        workdir.check_resume(place, cosine(24), IDENTITY)
    assert "\n" not in str(raised.value)


def test_num_steps_may_change_at_a_constant_learning_rate(directory: epath.Path) -> None:
    config = points()
    config.training.num_steps *= 2
    workdir.check_resume(directory, config, IDENTITY)
