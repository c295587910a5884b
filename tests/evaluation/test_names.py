"""File names say what made a result, and results with other settings do not overwrite each other."""

from __future__ import annotations

import json
from typing import Any

import pytest
from etils import epath
from ml_collections import ConfigDict

from tests.training.runs import points
from vdm_jax import methods
from vdm_jax.conditioning.label import Label
from vdm_jax.config import base, choose
from vdm_jax.evaluation import names, results
from vdm_jax.evaluation.names import Origin
from vdm_jax.runtime import workdir


@pytest.mark.parametrize(
    ("field", "value", "part"),
    [
        ("num_steps", 50, "steps50"),
        ("sampler", "ddim", "ddim"),
        ("guidance", (0.0, 1.0, 2.5), "w0_1_2.5"),
        ("guidance", (-1.0,), "w-1"),
        ("num_images", 7, "n7"),
        ("clip", True, "clip"),
        ("clip", False, "no_clip"),
        ("tolerance", 1e-5, "tolerance1e-05"),
        ("respacing", "3,5,11", "respacing_3_5_11"),
        ("respacing", "", "respacing_none"),
        ("low_resolution", "runs/a b/540000_scale1.npz", "low_resolution_540000_scale1"),
        ("classifier", "runs/judge", "judge"),
    ],
)
def test_a_setting_in_a_name(field: str, value: Any, part: str) -> None:
    assert names.setting(field, value) == part


def directory_of(config: ConfigDict, place: Any) -> epath.Path:
    """A working directory of a config."""
    directory = epath.Path(place)
    workdir.claim(directory, config)
    return directory


def test_samples_are_named_by_what_differs_from_the_config_of_the_directory(tmp_path: Any) -> None:
    directory, method = directory_of(points(), tmp_path), methods.build(points())
    stem = lambda config, origin=None: names.sample_stem(config, method, 3000, directory, origin)
    other = points()
    assert stem(other) == "3000"
    other.sampling.batch_size = 3
    assert stem(other) == "3000"  # samples do not depend on it
    choose(other, {"sampling.sampler": "ddim"})
    other.sampling.num_steps, other.sampling.seed = 50, 7
    assert stem(other) == "3000_ddim_steps50_seed7"
    other.sampling.eta, other.evaluation.weights = 0.5, "raw"
    assert stem(other) == "3000_ddim_steps50_seed7_raw_eta0.5"
    assert names.sample_stem(other, method, 3000) == "3000"  # no directory to compare with
    from_file = Origin("published/cifar 10/checkpoint-final")
    assert stem(points(), from_file) == "3000_from_checkpoint-final"
    last = points()
    last.sampling.seed += 1  # of the second stage of a pipeline
    stages = ({"workdir": "runs/base", "step": 5, "sampling": {}},)
    assert stem(last, Origin(stages=stages)) == "3000_after_base"


def test_labels_and_scales_are_in_the_name_even_without_a_directory(tmp_path: Any) -> None:
    config = choose(points(), {"method": "ddpm", "sampling.classifier": "runs/judge"})
    config.sampling.label, config.sampling.classifier_scale = 3, 2.5
    labeled = methods.build(points())._replace(conditions=(Label(num_classes=4),))
    assert names.sample_stem(config, labeled, 7) == "7_label3_scale2.5"
    own = choose(points(), {"method": "ddpm"})
    assert names.sample_stem(config, labeled, 7, directory_of(own, tmp_path)) == "7_label3_scale2.5_judge"


def result_of(**changes: Any) -> dict[str, Any]:
    measured = {"estimator": "vlb_T=100", "split": "test", "examples": 297, "passes": 16, "seed": 1}
    return {"step": 3000, **measured, "weights": "ema", "dataset": "digits (1)", **changes}


def test_evaluations_are_named_by_all_their_settings() -> None:
    config = base()
    name = lambda result: names.evaluation_name(config, result, "sample_quality", ["retrieval"])
    assert name(result_of()) == "step3000_vlb_T100_test_297x16_seed1_ema"
    assert name(result_of(weights_from="runs/a")) == "step3000_vlb_T100_test_297x16_seed1_ema_from_a"
    config.evaluation.tolerance, config.model.dtype = 1e-3, "bfloat16"
    assert (
        name(result_of(estimator="ode", weights="raw")) == "step3000_ode_test_297x16_seed1_raw_tolerance0.001_bfloat16"
    )
    alone = {"step": 7, "weights": "ema", "retrieval": {"examples": 40, "seed": 0}}
    assert name(alone) == "step7_test_retrieval40_ema_tolerance0.001_bfloat16"
    config = choose(base(), {"sampling.sampler": "ddim"})
    config.sampling.eta = 0.5
    drawn = {"samples": 60, "sampler": "ddim", "num_steps": 50, "seed": 2}
    assert name({"step": 7, "weights": "ema", "sample_quality": drawn}).endswith(
        "frechet60_ddim_steps50_seed2_eta0.5_ema"
    )


def test_only_the_same_settings_replace_a_result(tmp_path: Any) -> None:
    directory, config = epath.Path(tmp_path), base()
    write = lambda **changes: (
        results.write(directory, "x", result_of(made_by=names.made_evaluation(config, False), **changes))[1].name
    )
    assert write(value=1) == "x.json" and write(value=2) == "x.json"
    config.evaluation.batch_size += 1
    assert write(value=3) == "x.json"
    config.evaluation.tolerance = 0.1
    assert write(value=4) == "x_2.json" and write(value=5) == "x_2.json"
    assert write(value=6, dataset="digits (2)") == "x_3.json"
    read = lambda name: json.loads((tmp_path / name).read_text())["value"]
    assert [read(f"evals/{name}.json") for name in ("x", "x_2", "x_3")] == [3, 5, 6] and read("eval.json") == 6


def test_a_result_of_an_early_version_is_kept(tmp_path: Any) -> None:
    (tmp_path / "eval.json").write_text('{"bits_per_dim": 1.5}')
    results.write(epath.Path(tmp_path), "x", result_of(bits_per_dim=2.0))
    assert json.loads((tmp_path / "evals" / "earlier.json").read_text()) == {"bits_per_dim": 1.5}
    assert json.loads((tmp_path / "eval.json").read_text())["bits_per_dim"] == 2.0
    results.write(epath.Path(tmp_path), "x", result_of(bits_per_dim=3.0))
    assert json.loads((tmp_path / "evals" / "earlier.json").read_text()) == {"bits_per_dim": 1.5}


def test_a_number_is_added_to_a_name_that_other_settings_have() -> None:
    there = {"a": {"seed": 1, "version": "0"}, "a_2": {}}
    assert names.free("a", there.get, {"seed": 1, "version": "1"}) == "a"
    assert names.free("a", there.get, {"seed": 2}) == "a_3"
    assert names.free("b", there.get, {"seed": 2}) == "b"
