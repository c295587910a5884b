"""The functions of a model in a notebook are traced once, run in batches, and return NumPy arrays."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
import pytest

from tests.conditioning.test_label import labeled
from tests.training.runs import FAST, points
from vdm_jax import api, config, methods

TRACED = "/jax/core/compile/jaxpr_trace_duration"
VALUES = 17


@contextmanager
def traces() -> Iterator[list[str]]:
    """The functions that JAX traces meanwhile."""
    seen: list[str] = []

    def listen(event: str, duration: float, **about: Any) -> None:
        if event == TRACED:
            seen.append(str(about.get("fun_name", event)))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture(scope="module")
def model() -> api.Model:
    """An MLP on pairs of pixels of three classes, with random parameters."""
    made = labeled(points(), 3, share=0.1)
    made.data.vocabulary, made.schedule.gamma_0 = VALUES, config.gamma_0_for(VALUES)
    config.choose(made, {"sampling.num_steps": 4})
    config.check(made)
    method = methods.build(made)
    params = jax.jit(method.init, compiler_options=FAST)(jax.random.key(0))
    draw = np.random.default_rng(0)
    params["network"] = jax.tree.map(lambda a: 0.3 * draw.normal(size=a.shape).astype(a.dtype), params["network"])
    return api.Model(made, method, params, 7)


X = np.random.default_rng(1).integers(0, VALUES, (7, 2))
LABELS = np.array([0, 1, 2, 2, 1, 0, 0])
KNOWN = np.array([True, False])

# (model, seed, labels, keywords) → what the function returns
Call = Callable[[Any, int, Any, Any], Any]
CALLS: dict[str, Call] = {
    "sample": lambda m, seed, label, how: m.sample(7, seed=seed, label=label, **how),
    "other steps": lambda m, seed, label, how: m.sample(7, seed=seed, label=label, num_steps=3, sampler="ddim", **how),
    "guided": lambda m, seed, label, how: m.sample(7, seed=seed, label=label, guidance_weight=np.arange(7.0), **how),
    "trajectory": lambda m, seed, label, how: m.sample(7, seed=seed, label=label, trajectory=True, **how),
    "inpaint": lambda m, seed, label, how: m.inpaint(X, KNOWN, seed=seed, labels=label, repeats=2, **how),
    "vary": lambda m, seed, label, how: m.vary(X, 0.5, seed=seed, labels=label, **how),
    "bits_per_dim": lambda m, seed, label, how: m.bits_per_dim(X, seed=seed, labels=label, passes=2, **how),
    "discrete time": lambda m, seed, label, how: m.bits_per_dim(X, seed=seed, labels=label, num_timesteps=5, **how),
    "encode": lambda m, seed, label, how: m.encode(X, label, **how),
    "decode": lambda m, seed, label, how: m.decode(np.full((7, 2), 0.1 * seed), label, **how),
    "denoise": lambda m, seed, label, how: m.denoise(np.full((7, 2), 0.3), float(seed), label, **how),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_a_second_call_traces_nothing_whatever_its_seed_and_labels(name: str, model: Any) -> None:
    call = CALLS[name]
    with traces() as before:
        first = call(model, 0, 1, {})
    assert "run" in before  # the program
    with traces() as after:
        again, other = call(model, 0, 1, {}), call(model, 1, LABELS, {})
    assert after == []
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert any(np.any(a != b) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True))
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(first))


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_batches_leave_the_results_as_they_are(name: str, model: Any, capsys: Any) -> None:
    """Images to the bit; real numbers up to the rounding of matrix products of other shapes.

    The flow from data to noise enlarges that rounding by up to σ_1/σ_0.
    """
    whole, parts = (CALLS[name](model, 3, LABELS, {"batch_size": size, "progress": False}) for size in (7, 3))
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        tolerance = 0 if a.dtype == np.uint8 else 2e-2 if name == "encode" else 2e-5
        np.testing.assert_allclose(a.astype(np.float64), b.astype(np.float64), rtol=tolerance, atol=tolerance)
    assert capsys.readouterr().err == ""


def test_all_batches_and_counts_of_several_run_one_program(model: Any) -> None:
    few = model.sample(5, batch_size=2, label=1)
    with traces() as traced:
        many = model.sample(9, batch_size=2, label=1, progress=False)
    assert "run" not in traced
    np.testing.assert_array_equal(many[:5], few)


def test_several_batches_show_a_bar(model: Any, capsys: Any) -> None:
    model.sample(2, batch_size=2, label=1)
    assert capsys.readouterr().err == ""
    model.sample(5, batch_size=2, label=1)
    assert "0/3" in capsys.readouterr().err
    model.sample(5, batch_size=2, label=1, progress=False)
    assert capsys.readouterr().err == ""


def test_images_are_bytes_and_floats_that_are_integers_are_pixels(model: Any) -> None:
    images = [model.sample(7), model.vary(X, labels=0), model.inpaint(X, KNOWN, labels=0)]
    images.append(model.decode(model.encode(X, 0), 0))
    assert [a.dtype for a in images] == [np.uint8] * 4
    np.testing.assert_array_equal(images[2][:, 0], X[:, 0])
    np.testing.assert_array_equal(images[3], X)  # the flow is invertible
    np.testing.assert_array_equal(
        model.bits_per_dim(X, labels=0)["total"], model.bits_per_dim(X.astype(np.float64), labels=0)["total"]
    )
    z, again = model.noise(X, 0.0), model.noise(X.astype(np.uint8), 0.0)
    assert type(z) is np.ndarray
    np.testing.assert_array_equal(z, again)


def test_programs_do_not_keep_the_parameters_of_a_model(model: Any) -> None:
    copy = model._replace(params=jax.tree.map(lambda a: a + 0, model.params))
    one = weakref.ref(jax.tree.leaves(copy.params)[0])
    copy.sample(7, label=1), copy.bits_per_dim(X, labels=1), copy.encode(X, 1)
    del copy
    gc.collect()
    assert one() is None


def test_a_replaced_method_is_not_served_by_the_programs_of_another(model: Any) -> None:
    draw = model.method.sample
    fixed = model._replace(method=model.method._replace(sample=lambda *a: (0 * draw(*a)[0] + 5, draw(*a)[1])))
    assert np.any(model.sample(3, label=1) != 5)
    np.testing.assert_array_equal(fixed.sample(3, label=1), np.full((3, 2), 5))


def test_a_model_is_one_line(model: Any) -> None:
    count = sum(np.size(a) for a in jax.tree.leaves(model.params))
    assert repr(model) == (
        f"Model(method='vdm', network='mlp', data='swirl' (2, 17 values), {count:,} parameters, step 7)"
    )
