"""Rules for Denoising Diffusion GANs."""

from __future__ import annotations

import numpy as np

from vdm_jax.fields import Given, demand


def check_ddgan(given: Given) -> None:
    """Check the noise schedule, the number of sampling steps, and the networks of a GAN."""
    low, high = given["schedule.beta_min"], given["schedule.beta_max"]
    adversary, trained = given["training.adversary"], given["schedule.num_timesteps"]
    steps = trained if adversary == "pairs" else 1
    demand(trained <= 1000, f"config.schedule.num_timesteps={trained}: a GAN takes a few large steps; try 4")
    from vdm_jax.diffusion import tables  # imports JAX, which the other checks do not need

    # In NumPy: a JAX array would start the backend before main.py selects the devices and joins a job.
    betas = tables.vp_betas(trained, low, high, given["schedule.t_min"])
    demand(
        bool(np.all((betas > 0) & (betas < 1))),
        f"config.schedule.beta_max={high:g} removes all signal within {trained} levels "
        "(every beta must be between 0 and 1); try 20",
    )
    demand(
        given["sampling.num_steps"] == steps,
        f"config.sampling.num_steps={given['sampling.num_steps']}, but the generator is trained for {steps} "
        f"step{'s'[: steps != 1]}; set it to {steps}",
    )
    demand(
        adversary == "pairs" or given["model.prediction"] == "x",
        "config.training.adversary='augmented' is a one-shot GAN, which predicts x; set config.model.prediction='x'",
    )
    if given["model.network"] == "mlp":
        return
    demand(
        given["model.family"] == "ddgan",
        f"config.model.family={given['model.family']!r} is not a generator; set it to 'ddgan'",
    )
    _check_discriminator(given)


def _check_discriminator(given: Given) -> None:
    """Check that the discriminator fits the shape of the images and the batch size."""
    from vdm_jax.networks.discriminator import GROUP, SIZES  # imports JAX, which the other checks do not need

    (height, width, _), name = given["data.shape"], given["model.discriminator"]
    factor = SIZES[name].factor
    demand(
        height % factor == 0 and width % factor == 0,
        f"config.model.discriminator={name!r} halves {height} × {width} pixels until they are 1/{factor}; "
        f"config.data.shape must be divisible by {factor}",
    )
    demand(
        given["model.discriminator_time"] % 2 == 0,
        f"config.model.discriminator_time={given['model.discriminator_time']} must be even, for sines and cosines",
    )
    total, parts = given["data.batch_size"], given["training.accumulate"]
    group = min(GROUP, total)
    divisible = -(-total // (GROUP * parts)) * GROUP * parts
    demand(
        total % group == 0 and (total // group) % parts == 0,
        f"config.data.batch_size={total} in {parts} part{'s'[: parts != 1]} is not divisible into the discriminator's "
        f"groups of {group}; try config.data.batch_size={divisible}",
    )
