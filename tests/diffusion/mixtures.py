"""x from a mixture of Gaussians in one dimension: its density, score and denoiser at every level, in closed form."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.diffusion import prediction
from vdm_jax.diffusion.process import expand


class Mixture(NamedTuple):
    shares: tuple[float, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]

    @property
    def variance(self) -> float:
        p, m, s = (np.array(a) for a in self)
        return float(p @ (m**2 + s**2) - (p @ m) ** 2)

    def parts(self, z, alpha, sigma):
        """Of every component at z [...]: log share × density, mean and variance of z, [..., K]."""
        p, m, s = (jnp.asarray(a) for a in self)
        z, alpha, sigma = (jnp.broadcast_to(a, z.shape)[..., None] for a in (z, alpha, sigma))
        like = lambda a: jnp.broadcast_to(a, (*z.shape[:-1], len(p)))
        mean, variance = alpha * like(m), jnp.square(alpha * like(s)) + jnp.square(sigma)
        log = jnp.log(like(p)) - 0.5 * (jnp.square(z - mean) / variance + jnp.log(2 * jnp.pi * variance))
        return log, mean, variance

    def log_density(self, z, alpha, sigma):
        return jax.nn.logsumexp(self.parts(z, alpha, sigma)[0], axis=-1)

    def score(self, z, alpha, sigma):
        log, mean, variance = self.parts(z, alpha, sigma)
        return jnp.sum(jax.nn.softmax(log, axis=-1) * (mean - z[..., None]) / variance, axis=-1)

    def posterior_mean(self, z, alpha, sigma):
        """E[x|z], from the components' own posteriors and not from the score."""
        log, mean, variance = self.parts(z, alpha, sigma)
        _, m, s = (jnp.asarray(a) for a in self)
        like = lambda a: jnp.broadcast_to(a, mean.shape)
        alpha = jnp.broadcast_to(alpha, z.shape)[..., None]
        each = like(m) + alpha * like(s) ** 2 / variance * (z[..., None] - mean)
        return jnp.sum(jax.nn.softmax(log, axis=-1) * each, axis=-1)

    def predict(self, z, level):
        """The exact denoiser as samplers.Predict."""
        alpha, sigma = expand(level.alpha, z.ndim), expand(level.sigma, z.ndim)
        return prediction.split(-sigma * self.score(z, alpha, sigma), z, level)

    def component(self, k):
        """The data of one class, the class being the component."""
        return Mixture((1.0,), (self.means[k],), (self.deviations[k],))

    def log_class(self, z, alpha, sigma):
        """log p(c|z), [..., K]."""
        return jax.nn.log_softmax(self.parts(z, alpha, sigma)[0], axis=-1)

    def logits(self, z, level):
        """What a classifier of z [B, 1] would give, up to a number that differs from z to z: [B, K]."""
        log, _, _ = self.parts(z, expand(level.alpha, 2), expand(level.sigma, 2))
        return log[:, 0] + z

    def denoise(self, kind="eps"):
        """The exact network (z [B, 1], level, labels [B]) → output of this kind; the label K is ∅."""

        def denoise(z, level, labels):
            alpha, sigma = expand(level.alpha, 2), expand(level.sigma, 2)
            _, mean, variance = self.parts(z, alpha, sigma)
            scores = jnp.concatenate(
                [(mean - z[..., None]) / variance, self.score(z, alpha, sigma)[..., None]], axis=-1
            )
            score = jnp.take_along_axis(scores, labels[:, None, None], axis=-1)[..., 0]
            eps = -sigma * score
            x = prediction.x_from_eps(z, eps, level)
            v = prediction.v_from(x, eps, level)
            return {"eps": eps, "x": x, "v": v, "score": score, "velocity": eps - x}[kind]

        return denoise


# Two examples; the variance of the second is .6 + .35² = .7225.
EXAMPLE = Mixture((0.3, 0.5, 0.2), (-1.2, 0.3, 1.5), (0.15, 0.2, 0.1))
THREE = Mixture((0.3, 0.4, 0.3), (-1.0, 0.0, 1.0), (0.35, 0.35, 0.35))
