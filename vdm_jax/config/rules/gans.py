"""Denoising Diffusion GANs."""

from __future__ import annotations

import numpy as np

from vdm_jax.fields import Given, demand


def check_ddgan(given: Given) -> None:
    low, high = given["schedule.beta_min"], given["schedule.beta_max"]
    adversary, trained = given["training.adversary"], given["schedule.num_timesteps"]
    steps = trained if adversary == "pairs" else 1
    demand(trained <= 1000, f"config.schedule.num_timesteps={trained}: a GAN takes few and large steps; try 4")
    from vdm_jax.diffusion import tables  # imports JAX, which the other checks do without

    # In NumPy: an array of JAX would start its backend, before main.py chooses the devices and joins a job.
    betas = tables.vp_betas(trained, low, high, given["schedule.t_min"])
    demand(
        bool(np.all((betas > 0) & (betas < 1))),
        f"config.schedule.beta_max={high:g} leaves nothing of the data in {trained} levels "
        "(every beta must lie between 0 and 1); try 20",
    )
    demand(
        given["sampling.num_steps"] == steps,
        f"config.sampling.num_steps={given['sampling.num_steps']}, but a generator knows the {steps} "
        f"step{'s'[: steps != 1]} that it is trained for; set it to {steps}",
    )
    demand(
        adversary == "pairs" or given["model.prediction"] == "x",
        "config.training.adversary='augmented' is a one-shot GAN, which gives x; set config.model.prediction='x'",
    )
    if given["model.network"] == "mlp":
        return
    demand(
        given["model.family"] == "ddgan",
        f"config.model.family={given['model.family']!r} is no generator; set it to 'ddgan'",
    )
    _check_discriminator(given)


def _check_discriminator(given: Given) -> None:
    from vdm_jax.networks.discriminator import GROUP, SIZES  # imports JAX, which the other checks do without

    (height, width, _), name = given["data.shape"], given["model.discriminator"]
    factor = SIZES[name].factor
    demand(
        height % factor == 0 and width % factor == 0,
        f"config.model.discriminator={name!r} halves {height} × {width} pixels until they are 1/{factor}; "
        f"config.data.shape must divide by {factor}",
    )
    demand(
        given["model.discriminator_time"] % 2 == 0,
        f"config.model.discriminator_time={given['model.discriminator_time']} must be even, for sines and cosines",
    )
    total, parts = given["data.batch_size"], given["training.accumulate"]
    group = min(GROUP, total)
    whole = -(-total // (GROUP * parts)) * GROUP * parts
    demand(
        total % group == 0 and (total // group) % parts == 0,
        f"config.data.batch_size={total} in {parts} part{'s'[: parts != 1]} does not hold the discriminator's groups "
        f"of {group} whole; try config.data.batch_size={whole}",
    )
