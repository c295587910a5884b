"""Likelihoods, noisy data and latents of a model, in batches."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax import arguments
from vdm_jax.api import batches, inputs, outputs, programs
from vdm_jax.api.batches import Batching
from vdm_jax.api.drawing import Settings
from vdm_jax.diffusion.prediction import Prediction
from vdm_jax.errors import UserError


def bits_per_dim(
    model: Settings, images: Any, labels: Any, seed: int, passes: int, how: Batching
) -> dict[str, np.ndarray]:
    """Return the terms of a likelihood, [N] each; see `Model.bits_per_dim`."""
    config, method, params = model
    if method.bits_per_dim is None:
        raise UserError(f"this model of method {config.method!r} has no likelihood (a student's is its teacher's)")
    x = inputs.images(config, images)
    rows = {"x": x, "cond": inputs.conditions(method, labels, len(x))}
    keys = [jax.random.fold_in(jax.random.key(seed), number) for number in range(passes)]
    terms = batches.run(programs.evaluator(method.bits_per_dim), params, keys, rows, len(x), how)
    return {name: np.mean([each[name] for each in terms], axis=0) for name in terms[0]}


def noise(model: Settings, images: Any, gamma: Any, seed: int, how: Batching) -> np.ndarray:
    """Return z_t [N, …]; see `Model.noise`."""
    ode, x = _ode(model), inputs.images(model.config, images)
    shared, program = (jax.random.key(seed), _level(model, gamma)), programs.noiser(ode, model.method.encode)
    return np.asarray(batches.run(program, model.params, [shared], {"x": x}, len(x), how)[0])


def denoise(model: Settings, z: Any, gamma: Any, labels: Any, how: Batching) -> Prediction:
    """Return x̂ and ε̂; see `Model.denoise`."""
    program, rows = programs.denoiser(_ode(model)), _latents(model, z, labels)
    [found] = batches.run(program, model.params, [_level(model, gamma)], rows, len(rows["z"]), how)
    return Prediction(*found)


def encode(model: Settings, images: Any, labels: Any, how: Batching) -> np.ndarray:
    """Return latents z_1 [N, …]; see `Model.encode`."""
    ode, x = _ode(model), inputs.images(model.config, images)
    rows = {"x": x, "cond": inputs.conditions(model.method, labels, len(x))}
    program = programs.encoder(ode, model.method.encode)
    return np.asarray(batches.run(program, model.params, [None], rows, len(x), how)[0])


def decode(model: Settings, latents: Any, labels: Any, how: Batching) -> np.ndarray:
    """Return images [N, …]; see `Model.decode`."""
    program, rows = programs.decoder(_ode(model), model.method.decode), _latents(model, latents, labels)
    return outputs.images(model.config, batches.run(program, model.params, [None], rows, len(rows["z"]), how)[0])


def _latents(model: Settings, z: Any, labels: Any) -> programs.Rows:
    array = inputs.latents(model.config, model.method, z)
    return {"z": array, "cond": inputs.conditions(model.method, labels, len(array))}


def _ode(model: Settings) -> programs.ODEOf:
    if model.method.ode is None:
        raise UserError(f"{model.config.method} has no probability flow")
    return model.method.ode


def _level(model: Settings, gamma: Any) -> jax.Array:
    """Return γ as an array; UserError if it is not one number within the schedule."""
    value = arguments.number("gamma", gamma)
    low, high = (float(end) for end in programs.ends(_ode(model))(model.params))
    slack = 1e-5 * (high - low)  # rounding of float32
    if not low - slack <= value <= high + slack:
        raise UserError(f"γ = {value:g} is outside the schedule, which goes from {low:g} to {high:g}")
    return jnp.asarray(value)
