"""Tiny runs: an MLP on points, a U-Net on digits; each step is compiled once for all tests here."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vdm_jax import config as configs
from vdm_jax import methods, text
from vdm_jax.presets.gan import ddgan as ddgan_settings
from vdm_jax.runtime import devices
from vdm_jax.training import program
from vdm_jax.training.program import Program

BATCH = 16
FAST = {"xla_backend_optimization_level": 0}  # compiles in half the time


def points() -> ConfigDict:
    """An MLP with dropout and a monotone schedule on the swirl."""
    config = configs.choose(configs.base(), {"model.network": "mlp", "schedule.kind": "learned_monotone"})
    config.data.name, config.data.shape, config.data.vocabulary, config.data.batch_size = "swirl", (2,), 0, BATCH
    config.model.width, config.model.depth, config.model.dropout = 8, 1, 0.1
    config.schedule.gamma_0, config.schedule.features = -8.0, 4
    config.training.num_steps, config.training.log_every, config.training.checkpoint_every = 12, 5, 3
    config.optimizer.learning_rate = 2e-3
    config.training.eval_examples, config.evaluation.examples, config.evaluation.batch_size = 20, 20, 16
    config.evaluation.passes = 1
    config.sampling.num_steps, config.sampling.num_images = 2, 4
    configs.check(config)
    return config


def images() -> ConfigDict:
    """A U-Net with dropout and augmentation on digits."""
    config = configs.base()
    config.data.batch_size, config.data.augment = BATCH, ("flip",)
    config.model.width, config.model.groups, config.model.depth, config.model.dropout = 8, 4, 1, 0.1
    config.model.fourier = (3.0, 4.0)
    config.schedule.gamma_0 = configs.gamma_0_for(config.data.vocabulary)
    config.optimizer.warmup_steps, config.optimizer.learning_rate = 0, 1e-3
    configs.check(config)
    return config


def mesh_of(count: int) -> Mesh:
    """A mesh over the first `count` devices."""
    return devices.make_mesh(count, 1, jax.devices()[:count])


@functools.cache
def _compiled(decisive: str, mesh: Mesh) -> Program:
    config = configs.from_saved(json.loads(decisive))
    return program.functions(config, methods.build(config), mesh, FAST)


def functions(config: ConfigDict, method: Any, mesh: Mesh) -> Program:
    """`program.functions`, shared by all runs whose step is the same."""
    saved = config.to_dict()
    host = "eval_every", "eval_examples", "checkpoint_every", "keep", "keep_every", "sample_every", "on_bad"
    for name in (*host, "num_steps", "steps_per_call", "profile_steps"):
        saved["training"].pop(name, None)
    return _compiled(json.dumps({k: v for k, v in saved.items() if k not in ("sampling", "evaluation")}), mesh)


def levels() -> ConfigDict:
    """A DDPM on `points` whose eight levels are drawn by importance: its history is warm after a few steps."""
    config = configs.choose(points(), {"method": "ddpm", "schedule.kind": "ddpm_cosine"})
    config.schedule.num_timesteps = config.sampling.num_steps = 8
    config.training.times, config.training.weighting = "importance", "vlb"
    configs.check(config)
    return config


def gan() -> ConfigDict:
    """A DDGAN of perceptrons on 25 Gaussians, with R1 on every third step."""
    config = ddgan_settings(configs.base(), "mlp")
    config.data.name, config.data.shape, config.data.vocabulary, config.data.batch_size = "gaussians25", (2,), 0, BATCH
    config.model.width, config.model.depth, config.model.latent = 8, 1, 2
    config.training.num_steps, config.training.log_every, config.training.checkpoint_every = 12, 5, 4
    config.training.r1, config.training.r1_every, config.training.seed = 1.0, 3, 2
    config.optimizer.learning_rate, config.optimizer.discriminator_learning_rate = 2e-3, 1e-3
    config.sampling.num_images = 4
    configs.check(config)
    return config


def gan_images() -> ConfigDict:
    """Its networks for images on digits, R1 on every step."""
    config = configs.choose(gan(), {"model.network": "multiscale"})
    config.data.name, config.data.shape, config.data.vocabulary = "digits", (8, 8, 1), 17
    config.model.groups = 4
    config.model.multipliers, config.model.attention_at, config.model.latent_width = (1.0, 2.0), (4,), 8
    config.model.mapping_depth, config.model.discriminator_width, config.model.discriminator_time = 1, 4, 8
    config.training.r1_every = 1
    configs.check(config)
    return config


def clip() -> ConfigDict:
    """A CLIP on `shapes` whose tokenizer is trained on eight captions."""
    parts = {"method": "clip", "model.network": "vit", "data.name": "shapes", "data.shape": (32, 32, 3)}
    config = configs.choose(configs.base(), {**parts, "data.vocabulary": 256})
    config.data.batch_size, config.training.mask_same_captions = BATCH, True
    config.model.depth, config.model.heads, config.model.patch, config.model.embedding = 2, 2, 16, 8
    config.model.text_width, config.model.text_depth, config.model.text_heads = 16, 1, 2
    config.model.context, config.model.vocabulary, config.model.width = 12, 300, 16
    config.data.tokenizer_path = tokenizer()
    config.optimizer.learning_rate = 1e-3
    configs.check(config)
    return config


@functools.cache
def tokenizer() -> str:
    """The path of a byte-pair encoding of a few captions."""
    path = Path(tempfile.mkdtemp()) / "tokenizer.json"
    captions = ["a small red circle at the left", "there is a large blue square above a small green cross"]
    text.train_bpe(captions, 290).save(str(path))
    return str(path)


def noised_clip() -> ConfigDict:
    """The same of noised images, with convolutions before its transformer."""
    config = configs.choose(clip(), {"model.noised": True, "model.stem": "convolutions"})
    config.schedule.kind, config.schedule.num_timesteps = "ddpm_linear", 50
    configs.check(config)
    return config


def clip_resnet() -> ConfigDict:
    """The same with a ResNet, whose batch statistics are those of the global batch."""
    config = configs.choose(clip(), {"model.network": "resnet"})
    config.model.width, config.model.depths = 8, (1, 1, 1, 1)
    configs.check(config)
    return config
