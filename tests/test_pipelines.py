"""Pipelines, on exact models of pixels: what a stage hands to the next one, and which neighbors are refused."""

from __future__ import annotations

import json
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from tests.methods.test_upsampler import SIDE, Pixels, settings
from tests.training.runs import mesh_of
from vdm_jax import Pipeline, methods, modes, pipelines, weights
from vdm_jax.api import Model
from vdm_jax.errors import UserError
from vdm_jax.evaluation import report
from vdm_jax.gaussian import networks
from vdm_jax.networks.resample import area

VALUES, CLASSES = 17, 3
LABELS = np.array([0, 1, 2, 0])
BASE = settings(
    model__low_resolution=0, model__num_classes=CLASSES, data__shape=(SIDE, SIDE, 1), data__vocabulary=VALUES
)
UP = settings(data__vocabulary=VALUES, model__num_classes=CLASSES, sampling__num_images=4)


def of_label(label: Any) -> Any:
    """The value of all pixels of a base image: 6, 8, 10."""
    return 6 + 2 * label


class Exact(Pixels):
    """E[ε | z_t]: the base knows the pixels by the label; the upsampler's have the means of its small image."""

    def apply(self, params: Any, z: Any, t: Any, cond: Any, *others: Any) -> Any:
        if "low_resolution" in cond and z.shape[1] == 2 * SIDE:
            return super().apply(params, z, t, cond)
        bar = jnp.asarray(self.bar, z.dtype)[jnp.round(t).astype(int)][:, None, None, None]
        if "low_resolution" in cond:
            x = jnp.repeat(jnp.repeat(cond["low_resolution"], 2, 1), 2, 2)
        else:
            x = ((2 * of_label(cond["label"]) + 1) / VALUES - 1)[:, None, None, None]
        return (z - jnp.sqrt(bar) * x) / jnp.sqrt(1 - bar)


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "build", Exact)


def model(config: ConfigDict) -> Model:
    return Model(config, methods.build(config), {"network": {}}, 7)


def stage(config: ConfigDict, name: str = "runs/base") -> pipelines.Stage:
    return pipelines.Stage(name, config, methods.build(config), {"network": {}})


def labeled(config: ConfigDict, label: int) -> ConfigDict:
    copy = ConfigDict(config.to_dict())
    copy.sampling.label = label
    return copy


def test_a_stage_enlarges_the_samples_of_the_one_before_it_with_their_labels() -> None:
    small, large = Pipeline((model(BASE), model(UP))).sample(4, label=LABELS, all_stages=True)
    np.testing.assert_array_equal(small, np.broadcast_to(of_label(LABELS)[:, None, None, None], (4, SIDE, SIDE, 1)))
    np.testing.assert_allclose(np.asarray(area(large.astype(np.float32), SIDE)), small, atol=1)


def test_without_a_label_both_stages_have_the_classes_in_turn() -> None:
    small, _ = Pipeline((model(BASE), model(UP))).sample(4, all_stages=True)
    np.testing.assert_array_equal(small[:, 0, 0, 0], of_label(LABELS))


def test_the_command_line_writes_what_the_notebook_returns(tmp_path: Any) -> None:
    """Stage k draws from its seed + k."""
    method, mesh = methods.build(UP), mesh_of(2)
    known = pipelines.draw([stage(BASE)], method, mesh, 4, UP.sampling.seed)
    seeded = pipelines.seeded(UP, UP.sampling.seed + 1)
    report.write_samples(seeded, method, {"network": {}}, mesh, epath.Path(tmp_path), 7, known)
    found = np.load(tmp_path / "samples" / "7.npz")
    np.testing.assert_array_equal(found["labels"], LABELS)
    expected = Pipeline((model(BASE), model(UP))).sample(4, seed=UP.sampling.seed)
    np.testing.assert_array_equal(found["samples"], expected)
    alone = model(UP).sample(4, seed=UP.sampling.seed, label=LABELS, low_resolution=known["low_resolution"])
    assert np.any(alone != expected)


def test_the_command_line_checks_stages_before_it_loads_them_and_records_them(tmp_path: Any, monkeypatch: Any) -> None:
    loaded: list[str] = []

    def load(path: str, *_: Any) -> tuple[Any, int]:
        loaded.append(epath.Path(path).name)
        return {"network": {}}, 7 if path.endswith("base") else 9

    monkeypatch.setattr(weights, "load", load)
    base, up = epath.Path(tmp_path / "base"), epath.Path(tmp_path / "up")
    with pytest.raises(UserError, match=r"^config.sampling.label=1 is not the label of the samples of "):
        modes.run_sample(labeled(UP, 1), up, None, [(base, BASE)])
    assert not loaded
    modes.run_sample(UP, up, None, [(base, labeled(BASE, 2))])
    assert loaded == ["base", "up"]
    found = np.load(up / "samples" / "9_after_base.npz")
    np.testing.assert_allclose(area(found["samples"].astype(np.float32), SIDE), np.full((4, SIDE, SIDE, 1), 10), atol=1)
    [made] = json.loads(str(found["made_by"]))["stages"]
    assert (made["workdir"], made["step"], made["sampling"]["label"]) == (str(base), 7, 2)


@pytest.mark.slow
def test_three_stages_link_in_order() -> None:
    top = settings(data__vocabulary=VALUES, data__shape=(8, 8, 1), model__low_resolution=4, model__attention_at=(4,))
    drawn = Pipeline((model(BASE), model(UP), model(top))).sample(3, all_stages=True)
    assert [images.shape[1] for images in drawn] == [2, 4, 8]
    np.testing.assert_array_equal(drawn[2], drawn[1].repeat(2, 1).repeat(2, 2))


@pytest.mark.parametrize(
    ("first", "last", "sentence"),
    [
        (UP, BASE, r"^the stage after runs/base is conditioned on label, which cannot be the samples of runs/base; "),
        (
            UP,
            UP,
            r"^runs/base has samples of shape \(4, 4, 1\), but this upsampler takes images of shape \(2, 2, 1\)",
        ),
        (
            settings(model__low_resolution=0, data__shape=(SIDE, SIDE, 1)),
            UP,
            r"^runs/base has samples with config.data.vocabulary=0, but this upsampler takes images with .*=17; ",
        ),
        (
            BASE,
            settings(data__vocabulary=VALUES, sampling__low_resolution="x.npz"),
            r"^config.sampling.low_resolution='x.npz' and the stage runs/base both give low_resolution; leave ",
        ),
    ],
)
def test_neighbors_that_do_not_fit_are_refused(first: ConfigDict, last: ConfigDict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        pipelines.check([stage(first)], methods.build(last), last)


def test_a_label_that_is_not_that_of_the_stages_before_is_refused() -> None:
    middle = settings(data__vocabulary=VALUES)  # it has no labels of its own and passes on those of the base
    sizes = {"data__shape": (8, 8, 1), "model__low_resolution": 4, "model__attention_at": (4,)}
    top = settings(data__vocabulary=VALUES, model__num_classes=CLASSES, **sizes)

    def check(*configs: ConfigDict) -> None:
        *before, last = configs
        stages = [stage(config, f"runs/{number}") for number, config in enumerate(before)]
        pipelines.check(stages, methods.build(last), last)

    with pytest.raises(
        UserError, match=r"^config.sampling.label=1 is not the label of the samples of runs/0, .* set it"
    ):
        check(BASE, labeled(UP, 1))
    with pytest.raises(UserError, match=r"^config.sampling.label=1 is not the label of the samples of runs/0, "):
        check(labeled(BASE, 2), labeled(UP, 1))
    with pytest.raises(UserError, match=r"^config.sampling.label=1 is not the label of the samples of runs/1, "):
        check(labeled(BASE, 2), middle, labeled(top, 1))
    with pytest.raises(UserError, match=r"^config.sampling.label=1 is not the label of the samples of runs/1, "):
        check(labeled(BASE, 2), UP, labeled(top, 1))
    check(labeled(BASE, 1), labeled(UP, 1), labeled(top, 1))
    check(labeled(BASE, 1), UP, top)
    unlabeled = settings(model__low_resolution=0, data__shape=(SIDE, SIDE, 1), data__vocabulary=VALUES)
    check(unlabeled, labeled(UP, 1), top)


@pytest.mark.parametrize(
    ("conditions", "sentence"),
    [
        ({"text": "a"}, "'text' is no condition of these models"),
        ({"low_resolution": 0}, "comes from the model before it"),
    ],
)
def test_conditions_that_no_stage_takes_are_refused(conditions: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Pipeline((model(BASE), model(UP))).sample(2, **conditions)


def test_labels_that_the_first_stage_does_not_have_are_asked_for(tmp_path: Any) -> None:
    plain = settings(model__low_resolution=0, data__shape=(SIDE, SIDE, 1), data__vocabulary=VALUES)
    method = methods.build(UP)
    known = {"low_resolution": np.zeros((4, SIDE, SIDE, 1), np.int32)}
    assert plain.model.num_classes == 0
    with pytest.raises(UserError, match=r"^the stage before this one has no labels, .* set config.sampling.label"):
        report.write_samples(UP, method, {"network": {}}, mesh_of(2), epath.Path(tmp_path), 7, known)
