"""Denoising Diffusion GAN (Xiao, Kreis & Vahdat 2022, arXiv:2112.07804).

The paper uses a table of T = 1 … 8 noise levels of the VP SDE, a generator x̂ = G(z_t, w, t) with a latent w, so that
p(z_{t−1}|z_t) is multimodal, a time-conditional discriminator, non-saturating losses, and the R1 penalty on the less
noisy image every few steps. The generator's update draws new times, noise and latents. The sampler takes T steps.

Ablations (table 2 of the paper): `model.prediction` 'eps' (noise generation) or 'previous' (direct denoising, where G
returns z_{t−1}), `model.latent` = 0, and `training.adversary` = 'augmented', a one-shot GAN that diffuses both real and
fake images.
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
            "model.latent": Field(100, "dimensions of the generator's latent w; 0 for none", low=0, decisive=True),
            "schedule.kind": common.schedule("ddgan_vp"),
            "training.adversary": Field(
                "pairs",
                "input of a DDGAN's discriminator: pairs (z_s, z_t), or diffused data and one-shot samples",
                ("pairs", "augmented"),
                decisive=True,
            ),
            "training.r1": Field(0.05, "weight r of r/2 |grad D|^2 on real data", low=0.0),
            "training.r1_every": Field(1, "R1 is applied once every this many steps; 0 for never", low=0),
            "optimizer.discriminator_learning_rate": Field(
                0.0, "learning rate of the discriminator; 0 for optimizer.learning_rate", low=0.0
            ),
            "sampling.sampler": common.sampler("ancestral"),
            "evaluation.split": common.SPLIT,
            "evaluation.num_samples": common.NUM_SAMPLES,
        },
        {"method": ("ddgan",)},
    ),
)

# The purposes that keys are folded with; each has an independent stream of random numbers.
LEVEL, NOISE, MORE, LATENT, POSTERIOR, START, PATH = range(7)

GENERATOR, DISCRIMINATOR = "generator", "discriminator"


def discriminator(config: ConfigDict) -> Discriminator | MLPDiscriminator:
    """Build the discriminator of the `model` section."""
    model, dtype = config.model, jnp.dtype(config.model.dtype)
    if model.network == "mlp":
        return MLPDiscriminator(model.width, model.depth, dtype)
    return Discriminator(model.discriminator, model.discriminator_width, model.discriminator_time, dtype)


def build(config: ConfigDict) -> Method:
    """Build a Denoising Diffusion GAN from a checked config."""
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
    """Return the model that `build` turns into a method."""
    section = config.schedule
    betas = tables.vp_betas(section.num_timesteps, section.beta_min, section.beta_max, section.t_min)
    table = tables.from_betas(betas, networks.time_input(config, len(betas)))
    net = networks.build(config)
    assert isinstance(net, UNet | MLPGenerator)
    return DDGAN(config, net, discriminator(config), table)


@dataclasses.dataclass(frozen=True, eq=False)
class DDGAN:
    """A Denoising Diffusion GAN. Its parameters are {'generator': …, 'discriminator': …}.

    Attributes:
        config: The checked config.
        generator: The network G.
        discriminator: The discriminator D.
        table: The T noise levels.
    """

    config: ConfigDict
    generator: UNet | MLPGenerator
    discriminator: Discriminator | MLPDiscriminator
    table: tables.Table

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return tuple(self.config.data.shape)

    @property
    def vocabulary(self) -> int | None:
        """Number of values of a pixel; None for continuous data."""
        return self.config.data.vocabulary or None

    @property
    def paired(self) -> bool:
        """True if D sees (z_s, z_t), False if it sees diffused data or diffused one-shot samples alone."""
        return cast(bool, self.config.training.adversary == "pairs")

    def init(self, key: Array) -> Params:
        """Initialize the parameters."""
        first, second = jax.random.split(key)
        z, t = jnp.zeros((1, *self.shape)), jnp.zeros(1)
        w = {LATENT_NAME: jnp.zeros((1, self.config.model.latent))}
        return {
            GENERATOR: self.generator.init(first, z, t, w)["params"],
            DISCRIMINATOR: self.discriminator.init(second, z, z if self.paired else None, t)["params"],
        }

    def encode(self, x: Array) -> Array:
        """Map pixel values to [−1, 1], both ends included; return continuous data unchanged."""
        return decoders.encode_to_ends(x, self.vocabulary)

    def decode(self, z: Array) -> Array:
        """Map z to the nearest pixel value; return continuous data unchanged."""
        return decoders.decode_from_ends(z, self.vocabulary)

    def denoise(self, params: Params) -> prediction.Denoise:
        """Return the function (z [B, …], level, latent w [B, latent]) → output of G."""
        return lambda z, level, w: cast(
            Array, self.generator.apply({"params": params[GENERATOR]}, z, level.t, {LATENT_NAME: w})
        )

    def fake(self, params: Params, keys: Array, z: Array, step: Transition) -> Array:
        """Sample ẑ_s [B, …] from p(z_s|z_t) with one latent and noise per key; step: t → s, with fields [B]."""
        w = normal_like(keys, (self.config.model.latent,), LATENT)
        raw = self.denoise(params)(z, step.frm, w)
        if self.config.model.prediction == "previous":
            return raw
        x = raw if self.config.model.prediction == "x" else prediction.x_from_eps(z, raw, step.frm)
        return adversarial.posterior_sample(x, z, normal_like(keys, self.shape, POSTERIOR), step)

    def one_shot(self, params: Params, keys: Array) -> Array:
        """Compute x̂ = G(z_T, w, T) from noise z_T; keys: [B]."""
        count, last = len(keys), self.table.num_levels - 1
        level = self.table.level(jnp.full(count, last))
        w = normal_like(keys, (self.config.model.latent,), LATENT)
        return self.denoise(params)(normal_like(keys, self.shape, START), level, w)

    def drawn(self, params: Params, batch: Batch, context: Context) -> Drawn:
        """Draw the real and fake inputs of D, with an independent noise level, noise and latent for each example."""
        keys, x = context.keys, self.encode(batch["x"])
        count = self.table.num_levels
        index = times.to_level(times.independent(fold(keys, LEVEL)), count)
        step, t = self.table.at(index), (index.astype(jnp.result_type(float)) + 0.5) / count
        eps, more = normal_like(keys, self.shape, NOISE), normal_like(keys, self.shape, MORE)
        if self.paired:
            real, z = adversarial.forward_pair(x, eps, more, step)
            return Drawn(real, self.fake(params, keys, z, step), z, step.frm, t)
        fake = q_sample(self.one_shot(params, keys), more, step.to)
        return Drawn(q_sample(x, eps, step.to), fake, None, step.frm, t)

    def discriminate(self, params: Params, about: Drawn, context: Context) -> Callable[[Array], Array]:
        """Return the discriminator as a function z_s [b, …] → logits [b]."""
        rows = Rows(context.index, context.gather)
        variables = {"params": params[DISCRIMINATOR]}
        return lambda z: cast(Array, self.discriminator.apply(variables, z, about.z, about.level.t, rows))

    def discriminator_loss(self, params: Params, extra: Any, batch: Batch, context: Context) -> tuple[Array, Terms]:
        """Compute softplus(−D(real)) + softplus(D(fake)) per example, plus r/2 ‖∇ D(real)‖² in steps with R1.

        The penalty is not multiplied by `training.r1_every`.

        Returns:
            The loss [b], and aux: t, the logits 'real' and 'fake', and the penalty, which is 0 in steps without R1.
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
        """Compute softplus(−D(fake)) per example, [b]; aux: t and the logits."""
        about = self.drawn(params, batch, context)
        fake = self.discriminate(params, about, context)(about.fake)
        return adversarial.generator_loss(fake), {"t": about.t, "fake": fake}

    def sample(self, params: Params, keys: Array, cond: Array, num_steps: int, keep: Sequence[int] = ()) -> Any:
        """Sample data from noise.

        Args:
            params: The parameters of the GAN.
            keys: One key per sample, [b].
            cond: Not used.
            num_steps: Not used; the sampler takes the T steps of the trained table.
            keep: The indices of the K steps whose states are returned.

        Returns:
            The samples [b, …] and z_s [K, b, …] after the kept steps.
        """
        if not self.paired:
            z = self.one_shot(params, keys)
            return self.decode(z), jnp.broadcast_to(z[None], (len(keep), *z.shape))
        step = adversarial.sampler_step(lambda keys, z, transition: self.fake(params, keys, z, transition))
        z = samplers.prior_sample(fold(keys, START), self.shape, self.table.gamma[-1])
        z, path = samplers.run(step, z, fold(keys, PATH), self.table.reverse(), keep)
        return self.decode(z), path


class Drawn(NamedTuple):
    """The inputs of the discriminator for one update.

    Attributes:
        real: z_s of data, [b, …].
        fake: z_s of the generator, [b, …].
        z: z_t that D sees with both, [b, …], or None.
        level: The noise level of z_t, whose t is the time input of D.
        t: The time of the level in [0, 1), [b].
    """

    real: Array
    fake: Array
    z: Array | None
    level: Noise
    t: Array
