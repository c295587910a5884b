"""A dequantizer beside an SDE that is exact: a silent network and the exact ε̂ of Gaussian pixels, N(0, s²)."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath
from ml_collections import ConfigDict
from scipy.stats import norm

from vdm_jax import frozen, methods, modes
from vdm_jax.config import base, check, choose
from vdm_jax.core.method import Context, Method
from vdm_jax.errors import UserError
from vdm_jax.gaussian import networks
from vdm_jax.keys import example_keys
from vdm_jax.methods import dequantizer
from vdm_jax.networks.coupling import Coupling
from vdm_jax.optimizer import promoting

jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
VARIANCE = 0.3


def make(shape: tuple[int, ...] = (2, 2, 1), vocabulary: int = 3, **changes: Any) -> ConfigDict:
    config = choose(base(), {"method": "dequantizer", "schedule.kind": "vp_sde", "schedule.t_min": 1e-3})
    config.data.update(shape=shape, vocabulary=vocabulary)
    config.model.update(width=8, groups=4, depth=1, fourier=(), residual="pixel", data_variance=VARIANCE)
    config.model.update(couplings=2, coupling_width=8, coupling_depth=1)
    config.training.times = "importance"
    choose(config, {name.replace("__", "."): value for name, value in changes.items()})
    check(config)
    return config


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "apply", lambda net, params, keys, z, level, cond: jnp.zeros_like(z))
    monkeypatch.setattr(networks, "init", lambda net, key, shape: {})


def batch_of(config: ConfigDict, count: int, seed: int = 0) -> tuple[dict[str, jax.Array], jax.Array]:
    """Levels as often as the Gaussian has them, and keys."""
    vocabulary = config.data.vocabulary
    edges = np.linspace(-1, 1, vocabulary + 1)
    mass = np.diff(norm.cdf(edges, 0, VARIANCE**0.5))
    x = np.random.default_rng(seed).choice(vocabulary, (count, *config.data.shape), p=mass / mass.sum())
    keys = example_keys(jax.random.key(seed), jnp.arange(count))
    return {"x": jnp.asarray(x, jnp.int32), "cond": {"augmented": jnp.zeros(count)}}, keys


def complete(method: Method) -> dict[str, Any]:
    """Parameters with those of the frozen score model, at their initial values."""
    key = jax.random.key(0)
    return {**{name: part.init(key) for name, part in method.frozen.items()}, **method.init(key)}


@pytest.mark.slow
def test_at_the_start_it_is_uniform_and_only_it_is_trained(silent: None) -> None:
    config = make()
    method = methods.build(config)
    params = complete(method)
    batch, keys = batch_of(config, 16)
    run = jit(method.bits_per_dim)
    terms = run(params, batch, keys)
    np.testing.assert_allclose(terms["total"], terms["uniform"], rtol=1e-5)
    np.testing.assert_allclose(terms["dequantization"], np.log2(1.5), rtol=1e-5)
    (phase,) = method.phases
    assert phase.trains == ("dequantizer",) and set(params) == {"network", "dequantizer"}
    moved = {**params, "dequantizer": jax.tree.map(lambda a: a + 0.1, params["dequantizer"])}
    other = run(moved, batch, keys)
    np.testing.assert_allclose(other["uniform"], terms["uniform"], rtol=1e-6)
    assert np.abs(other["total"] - terms["total"]).max() > 1e-3


@pytest.mark.slow
def test_training_tightens_the_bound(silent: None) -> None:
    """One pixel of three levels: what uniform noise loses is known, and most of it is won back."""
    config = make(shape=(1, 1, 1), model__couplings=1)
    method, optimizer = methods.build(config), promoting(optax.adam(0.02))
    params = complete(method)
    batch, keys = batch_of(config, 512)
    (phase,) = method.phases

    def step(own: Any, number: jax.Array) -> Any:
        own, state = own
        fresh = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
        context = Context(fresh, jax.random.fold_in(jax.random.key(9), number), jnp.arange(512), 512)
        loss = lambda part: phase.loss({**params, "dequantizer": part}, (), batch, context)[0].mean()
        updates, state = optimizer.update(jax.grad(loss)(own), state)
        return (optax.apply_updates(own, updates), state), None

    own = params["dequantizer"]
    (own, _), _ = jit(lambda own: jax.lax.scan(step, (own, optimizer.init(own)), jnp.arange(300)))(own)
    batch, keys = batch_of(config, 20_000, seed=1)
    terms = jit(method.bits_per_dim)({**params, "dequantizer": own}, batch, keys)
    gain = np.asarray(terms["uniform"] - terms["total"], np.float64)
    edges = np.linspace(-1, 1, 4)
    center, x = (edges[1:] + edges[:-1]) / 2, np.asarray(batch["x"]).ravel()
    moment = np.square(center) + (2 / 3) ** 2 / 12
    uniform = 0.5 * (moment / VARIANCE + np.log(2 * np.pi * VARIANCE)) - np.log(2 / 3)
    lost = ((uniform + np.log(np.diff(norm.cdf(edges, 0, VARIANCE**0.5)))) / np.log(2))[x].mean()
    error = gain.std() / np.sqrt(len(gain))
    assert 0.6 * lost - 3 * error < gain.mean() < lost + 3 * error and error < 0.2 * lost


@pytest.mark.parametrize("shape", [(4, 4, 2), pytest.param((5,), marks=pytest.mark.slow)])
def test_a_coupling_says_nothing_at_the_start(shape: tuple[int, ...]) -> None:
    net, f = Coupling(8, 1), jnp.ones((2, *shape))
    params = net.init(jax.random.key(0), f, f)["params"]
    log_s, t = net.apply({"params": params}, f, f)
    assert log_s.shape == t.shape == f.shape and not np.any(log_s) and not np.any(t)
    moved = jax.tree.map(lambda a: a + 5.0, params)
    log_s, t = net.apply({"params": moved}, f, f)
    assert np.all(np.abs(log_s) <= 2) and np.abs(t).max() > 2


def test_the_score_model_is_read_by_path_and_is_not_trained(
    silent: None, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make()
    with pytest.raises(UserError, match=r"config\.model\.score_model is missing: this model needs a score SDE"):
        modes.run_train(config, epath.Path(tmp_path), None)
    seen = []
    loaded = lambda path, config, method: (seen.append((path, config)), ({"network": "theirs"}, 7))[1]
    monkeypatch.setattr(frozen, "load", loaded)
    assert frozen.named_by("there", config, None) == (None, True) and config.model.score_model == "there"
    method = methods.build(config)
    assert frozen.load_parts(method) == {"network": "theirs"}
    ((path, of),) = seen
    assert path == "there" and of.method == "sde"
    params = method.init(jax.random.key(0))
    assert set(params) == {dequantizer.DEQUANTISER} and set(params["dequantizer"]) == {"coupling0", "coupling1"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"vocabulary": 0}, "is for continuous data"),
        ({"training__weighting": "simple"}, "training.weighting: config.method='dequantizer' has no such field"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make(**changes)


def test_an_sde_with_a_null_class_can_have_one() -> None:
    """No label is dropped while the network rests, whose null class was trained before."""
    make(model__num_classes=3, model__null_class=True)
