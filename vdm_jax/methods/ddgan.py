"""Denoising Diffusion GAN (Xiao, Kreis & Vahdat 2022, arXiv:2112.07804).

Which choices make this paper: a table of T = 1 … 8 levels of the VP SDE; x̂ = G(z_t, w, t) with a latent w, so that
p(z_{t−1}|z_t) has many modes; a discriminator that is told the time, non-saturating losses, R1 on the less noisy image
every so many steps; new times, noise and latents for the generator's turn; T steps of the sampler.

Ablations (its table 2): `model.prediction` 'eps' (noise generation) or 'previous' (direct denoising: G gives z_{t−1}),
`model.latent` = 0, and `training.adversary` = 'augmented', a one-shot GAN whose real and fake images are both diffused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from vdm_jax import common_fields as common
from vdm_jax.core.method import Batch, Context, Method, Params, Phase, SampleSet, Terms
from vdm_jax.diffusion import adversarial, decoders, prediction, samplers, tables, times
from vdm_jax.diffusion.process import Noise, expand, q_sample
from vdm_jax.diffusion.samplers import Transition
from vdm_jax.fields import Component, Field
from vdm_jax.gaussian import networks
from vdm_jax.keys import fold, normal_like
from vdm_jax.networks.discriminator import Discriminator, MLPDiscriminator, Rows
from vdm_jax.networks.generator import LATENT as LATENT_NAME
from vdm_jax.networks.generator import MLPGenerator
from vdm_jax.networks.multiscale import UNet

COMPONENTS = (
    Component(
        {
            "model.network": common.network("multiscale", "mlp"),
            "model.prediction": common.prediction("x", "eps", "previous"),
            "model.latent": Field(100, "numbers w that a generator is told; 0 for none", low=0, decisive=True),
            "schedule.kind": common.schedule("ddgan_vp"),
            "training.adversary": Field(
                "pairs",
                "what a DDGAN's discriminator sees: z_s beside z_t, or diffused data and one-shot samples alone",
                ("pairs", "augmented"),
                decisive=True,
            ),
            "training.r1": Field(0.05, "weight r of r/2 |grad D|^2 on real data", low=0.0),
            "training.r1_every": Field(1, "steps from one with R1 to the next; 0 for never", low=0),
            "optimizer.discriminator_learning_rate": Field(0.0, "of a discriminator; 0 for the learning rate", low=0.0),
            "sampling.sampler": common.sampler("ancestral"),
            "evaluation.split": common.SPLIT,
            "evaluation.num_samples": common.NUM_SAMPLES,
        },
        {"method": ("ddgan",)},
    ),
)

# Purposes that a key is folded for; each draws its own numbers.
LEVEL, NOISE, MORE, LATENT, POSTERIOR, START, PATH = range(7)

GENERATOR, DISCRIMINATOR = "generator", "discriminator"


def discriminator(config: ConfigDict) -> Discriminator | MLPDiscriminator:
    """The discriminator that the `model` section describes."""
    model, dtype = config.model, jnp.dtype(config.model.dtype)
    if model.network == "mlp":
        return MLPDiscriminator(model.width, model.depth, dtype)
    return Discriminator(model.discriminator, model.discriminator_width, model.discriminator_time, dtype)


def build(config: ConfigDict) -> Method:
    """A Denoising Diffusion GAN from a checked config."""
    made = model(config)
    every = config.training.r1_every
    return Method(
        init=made.init,
        phases=(
            Phase(DISCRIMINATOR, (DISCRIMINATOR,), made.discriminator_loss, "discriminator_learning_rate", False),
            Phase(GENERATOR, (GENERATOR,), made.generator_loss),
        ),
        variant=lambda step: every > 0 and step % every == 0,
        sample=made.sample,
        denoise=made.denoise,
        schedule=lambda params: tables.Steps(made.table),
        encode=made.encode,
        decode=lambda z, level: made.decode(z / expand(level.alpha, z.ndim)),
        evaluators=(SampleSet(),),
    )


def model(config: ConfigDict) -> DDGAN:
    """The functions of `build`, and those behind them."""
    section = config.schedule
    betas = tables.vp_betas(section.num_timesteps, section.beta_min, section.beta_max, section.t_min)
    table = tables.from_betas(betas, networks.time_input(config, len(betas)))
    net = networks.build(config)
    assert isinstance(net, UNet | MLPGenerator)
    return DDGAN(config, net, discriminator(config), table)


@dataclasses.dataclass(frozen=True, eq=False)
class DDGAN:
    """The functions of a method on one config. Parameters: {'generator': …, 'discriminator': …}."""

    config: ConfigDict
    generator: UNet | MLPGenerator
    judge: Discriminator | MLPDiscriminator
    table: tables.Table

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example."""
        return tuple(self.config.data.shape)

    @property
    def vocabulary(self) -> int | None:
        """Values of a number of the data; None for continuous data."""
        return self.config.data.vocabulary or None

    @property
    def paired(self) -> bool:
        """Whether D sees (z_s, z_t); else z_s alone, of data or of one-shot samples."""
        return cast(bool, self.config.training.adversary == "pairs")

    def init(self, key: Array) -> Params:
        """Parameters before training."""
        first, second = jax.random.split(key)
        z, t = jnp.zeros((1, *self.shape)), jnp.zeros(1)
        w = {LATENT_NAME: jnp.zeros((1, self.config.model.latent))}
        return {
            GENERATOR: self.generator.init(first, z, t, w)["params"],
            DISCRIMINATOR: self.judge.init(second, z, z if self.paired else None, t)["params"],
        }

    def encode(self, x: Array) -> Array:
        """Data → what is diffused: levels in [−1, 1] with both ends, real numbers as they are."""
        return decoders.encode_to_ends(x, self.vocabulary)

    def decode(self, z: Array) -> Array:
        """The nearest level; real numbers as they are."""
        return decoders.decode_from_ends(z, self.vocabulary)

    def denoise(self, params: Params) -> prediction.Denoise:
        """(z, level, latent w [B, latent]) → what G gives."""
        return lambda z, level, w: cast(
            Array, self.generator.apply({"params": params[GENERATOR]}, z, level.t, {LATENT_NAME: w})
        )

    def fake(self, params: Params, keys: Array, z: Array, step: Transition) -> Array:
        """ẑ_s of z_t by a latent and noise of their own; step: fields [B]."""
        w = normal_like(keys, (self.config.model.latent,), LATENT)
        raw = self.denoise(params)(z, step.frm, w)
        if self.config.model.prediction == "previous":
            return raw
        x = raw if self.config.model.prediction == "x" else prediction.x_from_eps(z, raw, step.frm)
        return adversarial.posterior_sample(x, z, normal_like(keys, self.shape, POSTERIOR), step)

    def one_shot(self, params: Params, keys: Array) -> Array:
        """x̂ = G(z_T, w, T) of noise."""
        count, last = len(keys), self.table.num_levels - 1
        level = self.table.level(jnp.full(count, last))
        w = normal_like(keys, (self.config.model.latent,), LATENT)
        return self.denoise(params)(normal_like(keys, self.shape, START), level, w)

    def drawn(self, params: Params, batch: Batch, context: Context) -> Drawn:
        """What this turn judges: a level, noise and latents of its own for each example."""
        keys, x = context.keys, self.encode(batch["x"])
        count = self.table.num_levels
        index = times.to_level(times.independent(fold(keys, LEVEL)), count)
        step, t = self.table.at(index), (index + 0.5) / count
        eps, more = normal_like(keys, self.shape, NOISE), normal_like(keys, self.shape, MORE)
        if self.paired:
            real, z = adversarial.forward_pair(x, eps, more, step)
            return Drawn(real, self.fake(params, keys, z, step), z, step.frm, t)
        fake = q_sample(self.one_shot(params, keys), more, step.to)
        return Drawn(q_sample(x, eps, step.to), fake, None, step.frm, t)

    def discriminate(self, params: Params, about: Drawn, context: Context) -> Callable[[Array], Array]:
        """z_s [b, …] → logits [b]."""
        rows = Rows(context.index, context.gather)
        variables = {"params": params[DISCRIMINATOR]}
        return lambda z: cast(Array, self.judge.apply(variables, z, about.z, about.level.t, rows))

    def discriminator_loss(self, params: Params, extra: Any, batch: Batch, context: Context) -> tuple[Array, Terms]:
        """softplus(−D(real)) + softplus(D(fake)), in steps of R1's variant + r/2 ‖∇ D(real)‖².

        aux: t, the logits, and the penalty, 0 in other steps. R1 is not multiplied by the steps between.
        """
        about = self.drawn(params, batch, context)
        discriminate = self.discriminate(params, about, context)
        if context.variant:
            real, slope = adversarial.with_penalty(discriminate, about.real)
            penalty = self.config.training.r1 * slope
        else:
            real = discriminate(about.real)
            penalty = jnp.zeros_like(real)
        fake = discriminate(about.fake)
        aux = {"t": about.t, "real": real, "fake": fake, "penalty": penalty}
        return adversarial.discriminator_loss(real, fake) + penalty, aux

    def generator_loss(self, params: Params, extra: Any, batch: Batch, context: Context) -> tuple[Array, Terms]:
        """softplus(−D(fake)); aux: t and the logits."""
        about = self.drawn(params, batch, context)
        fake = self.discriminate(params, about, context)(about.fake)
        return adversarial.generator_loss(fake), {"t": about.t, "fake": fake}

    def sample(self, params: Params, keys: Array, cond: Array, num_steps: int, keep: Sequence[int] = ()) -> Any:
        """Data [b, …] from noise, and z_s [K, b, …] after the steps to keep; num_steps is what was trained."""
        if not self.paired:
            z = self.one_shot(params, keys)
            return self.decode(z), jnp.broadcast_to(z[None], (len(keep), *z.shape))
        step = adversarial.sampler_step(lambda keys, z, transition: self.fake(params, keys, z, transition))
        z = samplers.prior_sample(fold(keys, START), self.shape, self.table.gamma[-1])
        z, path = samplers.run(step, z, fold(keys, PATH), self.table.reverse(), keep)
        return self.decode(z), path


class Drawn(NamedTuple):
    """real, fake: [b, …]; z: z_t that both belong to, or None; level: of z_t, as D is told; t: its place in [0, 1)."""

    real: Array
    fake: Array
    z: Array | None
    level: Noise
    t: Array
