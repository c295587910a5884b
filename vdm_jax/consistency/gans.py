"""Denoising Diffusion GANs."""

from __future__ import annotations

from vdm_jax.consistency.demand import Given, demand


def check_ddgan(given: Given) -> None:
    low, high = given["schedule.beta_min"], given["schedule.beta_max"]
    demand(low <= high, f"config.schedule.beta_min={low:g} must not exceed config.schedule.beta_max={high:g}")
    adversary, trained = given["training.adversary"], given["schedule.num_timesteps"]
    steps = trained if adversary == "pairs" else 1
    demand(trained <= 1000, f"config.schedule.num_timesteps={trained}: a GAN takes few and large steps; try 4")
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
    parts = given["training.accumulate"]
    together = given["data.batch_size"] // parts
    demand(
        together % min(GROUP, max(together, 1)) == 0,
        f"config.data.batch_size={given['data.batch_size']} in {parts} part{'s'[: parts != 1]} is {together} examples, "
        f"which the discriminator's groups of {GROUP} do not divide; "
        f"try config.data.batch_size={-(-together // GROUP) * GROUP * parts}",
    )
