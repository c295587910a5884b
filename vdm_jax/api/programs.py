"""Compiled functions of a model, each compiled once per settings and shapes.

A program is (params, shared, rows) → arrays of a batch: shared is the random key or γ, rows are arrays [b, …] of the
examples. The arguments of the cached function that makes it are its settings: functions of the method, which are the
same objects as long as the model is, and hashable options. Parameters are arguments of a program, so that the caches do
not keep them in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict, FrozenConfigDict

from vdm_jax import config as configs
from vdm_jax import methods
from vdm_jax.conditioning import Conditions
from vdm_jax.core.method import Method
from vdm_jax.diffusion import editing, likelihood, samplers
from vdm_jax.diffusion.prediction import Prediction
from vdm_jax.diffusion.process import q_sample
from vdm_jax.keys import example_keys
from vdm_jax.methods import classifier_guidance, clip_guidance
from vdm_jax.methods import guided as guiding

PROGRAMS = 16  # the number of recently used programs, and of settings, that are kept

Rows = dict[str, Any]
Program = Callable[[Any, Any, Rows], Any]
ODEOf = Callable[[Any], likelihood.ODE]
Init = Callable[[Array], Any]  # tells two methods of the same config apart


@lru_cache(maxsize=PROGRAMS)
def method_of(config: FrozenConfigDict, init: Init | None = None) -> Method:
    """Return the method of a checked config; init: that of the method whose settings were changed, None for none."""
    return methods.build(ConfigDict(config))


@lru_cache(maxsize=PROGRAMS)
def changed(config: FrozenConfigDict, changes: tuple[tuple[str, Any], ...]) -> FrozenConfigDict:
    """Return a config with other values by dotted names; UserError if they are not valid."""
    copy = ConfigDict(config.to_dict())
    configs.choose(copy, dict(changes))
    configs.check(copy)
    return FrozenConfigDict(copy)


GUIDES = {classifier_guidance.CLASSIFIER: classifier_guidance.of_classifier, clip_guidance.CLIP: clip_guidance.of_clip}


@lru_cache(maxsize=PROGRAMS)
def guided(
    config: FrozenConfigDict, guides: tuple[tuple[str, FrozenConfigDict], ...], init: tuple[Init, ...]
) -> tuple[Conditions, Callable[..., Any]]:
    """Return conditions and `Method.sample` of a model guided by other models.

    Args:
        config: The config of the model.
        guides: The key in GUIDES and the config of each guide.
        init: `Method.init` of the model and of the guides.

    Returns:
        The conditions, and a sampler whose `cond` is (values of conditions, scales [b] by the key of the guide).
    """

    def build(scales: Mapping[str, Array]) -> Method:
        made = [GUIDES[key](ConfigDict(config), ConfigDict(guide), scales.get(key)) for key, guide in guides]
        return guiding.build(ConfigDict(config), made)

    def draw(params: Any, keys: Array, cond: Any, num_steps: int, keep: tuple[int, ...]) -> Any:
        values, scales = cond
        sample = build(scales).sample
        assert sample is not None
        return sample(params, keys, values, num_steps, keep)

    return build({}).conditions, draw


@lru_cache(maxsize=PROGRAMS)
def encoded_shape(encode: Callable[[Array], Array], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the encoding of one example, without computing it."""
    found: tuple[int, ...] = jax.eval_shape(encode, jax.ShapeDtypeStruct((1, *shape), jnp.int32)).shape[1:]
    return found


@lru_cache(maxsize=PROGRAMS)
def sampler(draw: Callable[..., Any], num_steps: int, keep: tuple[int, ...]) -> Program:
    """Return the program of `Method.sample`: (params, key, rows 'index' and 'cond') → samples, states [b, K, …], …."""

    def run(params: Any, key: Array, rows: Rows) -> tuple[Array, ...]:
        samples, states, *evaluations = draw(params, _keys(key, rows), rows["cond"], num_steps, keep)
        return samples, jnp.moveaxis(states, 0, 1), *evaluations

    return jax.jit(run)


class Edit(NamedTuple):
    """How a sampler edits images: variations of a strength, or inpainting with so many repeats if `repeats` is set."""

    num_steps: int
    strength: float = 1.0
    repeats: int = 0


@lru_cache(maxsize=PROGRAMS)
def editor(chain_of: Callable[..., Any], encode: Callable[[Array], Array], edit: Edit) -> Program:
    """Return the program of an edit: (params, key, rows 'index', 'cond', 'x' and, to inpaint, 'known') → images.

    Sampling starts from images noised by a fraction `strength` of the steps, from pure noise at 1.
    """

    def run(params: Any, key: Array, rows: Rows) -> Array:
        keys = _keys(key, rows)
        chain, f = chain_of(params, rows["cond"], edit.num_steps), encode(rows["x"])
        z, steps, step = chain.start(keys), chain.steps, chain.step
        if edit.strength < 1:
            z, steps = editing.noised_start(f, keys, chain.steps, edit.strength)
        if edit.repeats:
            step = editing.resampled(editing.inpaint(step, f, rows["known"]), edit.repeats)
        z, _ = samplers.run(step, z, chain.path_keys(keys), steps)
        return chain.end(z, keys)

    return jax.jit(run)


@lru_cache(maxsize=PROGRAMS)
def evaluator(terms: Callable[..., Any]) -> Program:
    """Return the program of a likelihood: (params, key, rows 'index', 'cond' and 'x') → named terms [b]."""

    def run(params: Any, key: Array, rows: Rows) -> dict[str, Array]:
        return terms(params, {"x": rows["x"], "cond": rows["cond"]}, _keys(key, rows))

    return jax.jit(run)


@lru_cache(maxsize=PROGRAMS)
def ends(ode_of: ODEOf) -> Callable[[Any], tuple[Array, Array]]:
    """Return the function of params → (γ_0, γ_1), the range of a schedule."""

    def run(params: Any) -> tuple[Array, Array]:
        ode = ode_of(params)
        return jnp.asarray(ode.gamma_0), jnp.asarray(ode.gamma_1)

    return jax.jit(run)


@lru_cache(maxsize=PROGRAMS)
def noiser(ode_of: ODEOf, encode: Callable[[Array], Array]) -> Program:
    """Return the program of z = α f + σ ε: (params, (key, γ), rows 'index' and 'x') → z [b, …]."""

    def run(params: Any, shared: tuple[Array, Array], rows: Rows) -> Array:
        (key, gamma), f = shared, encode(rows["x"])
        eps = jax.vmap(lambda k: jax.random.normal(k, f.shape[1:]))(_keys(key, rows))
        return q_sample(f, eps, ode_of(params).level_of(gamma))

    return jax.jit(run)


@lru_cache(maxsize=PROGRAMS)
def denoiser(ode_of: ODEOf) -> Program:
    """Return the program of one network call: (params, γ, rows 'z' and 'cond') → Prediction."""

    def run(params: Any, gamma: Array, rows: Rows) -> Prediction:
        ode = ode_of(params)
        return ode.predict(rows["z"], ode.level_of(gamma), rows["cond"])

    return jax.jit(run)


@lru_cache(maxsize=PROGRAMS)
def encoder(ode_of: ODEOf, encode: Callable[[Array], Array]) -> Program:
    """Return the program of x → z_1: (params, None, rows 'x' and 'cond') → latents [b, …]."""

    def run(params: Any, shared: None, rows: Rows) -> Array:
        ode = ode_of(params)
        return likelihood.encode(ode, ode.level_of(ode.gamma_0).alpha * encode(rows["x"]), rows["cond"])

    return jax.jit(run)


@lru_cache(maxsize=PROGRAMS)
def decoder(ode_of: ODEOf, decode: Callable[[Array, Any], Array]) -> Program:
    """Return the program of z_1 → x: (params, None, rows 'z' and 'cond') → images [b, …]."""

    def run(params: Any, shared: None, rows: Rows) -> Array:
        ode = ode_of(params)
        return decode(likelihood.decode(ode, rows["z"], rows["cond"]), ode.level_of(ode.gamma_0))

    return jax.jit(run)


def _keys(key: Array, rows: Rows) -> Array:
    """Return the keys of examples [b]; each depends only on `key` and the index of the example."""
    return example_keys(key, rows["index"])
