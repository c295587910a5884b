"""Image k of a seed: the same whatever the batch size and the number of devices."""

from __future__ import annotations

import importlib.metadata
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict
from PIL import Image

from tests.training.runs import FAST, images, mesh_of, points
from vdm_jax import methods
from vdm_jax.config import choose
from vdm_jax.core.method import Method
from vdm_jax.evaluation import report, samples
from vdm_jax.keys import normal_like
from vdm_jax.runtime import workdir


def random_params(method: Method, scale: float = 0.1) -> Any:
    """Every parameter random: at initial ones the network's output is zero."""
    leaves, tree = jax.tree.flatten(jax.jit(method.init, compiler_options=FAST)(jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [leaf + scale * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, moved)


SIZES = ((16, 2), (3, 2), (1, 1))  # images at a time, devices


def drawn(config: ConfigDict, method: Method, params: Any, count: int, keep: tuple[int, ...] = ()) -> list[Any]:
    """`count` samples and kept states in several ways."""
    results = []
    for size, devices in SIZES:
        config.sampling.batch_size = size
        results.append(report.sample(config, method, params, mesh_of(devices), count, keep)[:2])
    return results


@pytest.mark.slow
def test_noise_of_an_image_is_the_same_to_the_bit() -> None:
    noise = lambda params, keys, cond, num_steps, keep: (normal_like(keys, (4,), 1), jnp.zeros((0, len(keys))))
    config = points()
    first, *others = (found for found, _ in drawn(config, methods.build(config)._replace(sample=noise), {}, 10))
    assert first.shape == (10, 4) and len(np.unique(first)) == 40
    for other in others:
        np.testing.assert_array_equal(other, first)
    config.sampling.seed = 1
    assert not np.any(drawn(config, methods.build(config)._replace(sample=noise), {}, 10)[0][0] == first)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["ancestral", pytest.param("heun", marks=pytest.mark.slow)])
def test_samples_do_not_depend_on_batch_size_or_devices(sampler: str) -> None:
    config = points()
    choose(config, {"sampling.sampler": sampler, "sampling.num_steps": 5})
    method = methods.build(config)
    first, *others = drawn(config, method, random_params(method), 10, (0, 1, 2, 3, 4))
    assert first[0].shape == (10, 2) and first[1].shape == (5, 10, 2)
    for other in others:
        for a, b in zip(other, first, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.slow
def test_images_do_not_depend_on_batch_size_or_devices() -> None:
    config = images()
    config.sampling.num_steps = 20
    choose(config, {"model.residual": "pixel", "model.data_variance": 0.55})
    method = methods.build(config)
    # A wild network would amplify a rounding error by its slope at every step; a trained one does not.
    first, *others = drawn(config, method, random_params(method, 0.03), 10, (0, 10, 19))
    for levels, latents in others:
        np.testing.assert_allclose(latents, first[1], atol=1e-4)
        assert (levels != first[0]).mean() < 1e-2  # a latent on the edge of two levels may fall either way


@pytest.mark.slow
def test_trajectory_ends_where_the_sample_is(tmp_path: Any) -> None:
    config = points()
    config.sampling.num_steps = 5
    method = methods.build(config)
    params = random_params(method)
    final, path, *_ = report.sample(config, method, params, mesh_of(2), 4, (4,))
    np.testing.assert_allclose(report.sample(config, method, params, mesh_of(2), 4)[0], final, atol=1e-5)
    sigma_0 = 1 / (1 + math.exp(-float(method.schedule(params).gamma_0)))
    np.testing.assert_allclose(final, path[-1] / math.sqrt(1 - sigma_0), rtol=1e-5)


def test_what_sampling_writes(tmp_path: Any) -> None:
    """Samples say how they were made; those of other settings have other names, those of the same replace theirs."""
    config = points()
    method = methods.build(config)
    params, directory = random_params(method), epath.Path(tmp_path)
    workdir.claim(directory, config)
    write = lambda: [p.name for p in report.write_samples(config, method, params, mesh_of(2), directory, 7)]
    assert write() == ["7.png", "7.npz", "7_strip.png"]
    first = dict(np.load(directory / "samples" / "7.npz"))
    assert first["samples"].shape == (config.sampling.num_images, 2) and first["samples"].dtype == np.float32
    made = json.loads(str(first["made_by"]))
    assert made["sampling"] == {**config.sampling.to_dict()} and made["weights_from"] == "checkpoints/7"
    assert (made["step"], made["weights"], made["version"]) == (7, "ema", importlib.metadata.version("vdm_jax"))
    assert made["command"]
    for name in ("7.png", "7_strip.png"):
        assert Image.open(directory / "samples" / name).size[0] > 100
    config.sampling.seed = 5
    assert write() == ["7_seed5.png", "7_seed5.npz", "7_seed5_strip.png"]
    config.sampling.seed = 0
    assert write() == ["7.png", "7.npz", "7_strip.png"]
    np.testing.assert_array_equal(np.load(directory / "samples" / "7.npz")["samples"], first["samples"])
    workdir.write_json(directory / "config.json", {"config": {**config.to_dict(), "sampling": {"seed": 5}}})
    config.sampling.seed = 5  # now the default of the directory, but 7.npz has another seed
    assert write()[0].startswith("7_") and np.load(directory / "samples" / "7.npz")["made_by"] == first["made_by"]


@pytest.mark.parametrize(
    ("vocabulary", "dtype"), [(17, np.uint8), (256, np.uint8), (257, np.int32), (None, np.float32)]
)
def test_levels_are_saved_in_as_few_bytes_as_they_take(vocabulary: int | None, dtype: Any) -> None:
    levels = np.arange((vocabulary or 9) - 4, vocabulary or 9, dtype=np.int32 if vocabulary else np.float32)
    saved = samples._compact(levels, vocabulary)
    assert saved.dtype == dtype
    np.testing.assert_array_equal(saved, levels)
