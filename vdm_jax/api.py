"""Trained models in a notebook: `model = vdm_jax.load(path)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from vdm_jax import api_inputs as inputs
from vdm_jax import conditioning, frozen, methods, weights
from vdm_jax import config as configs
from vdm_jax.core import chain as chains
from vdm_jax.core.method import Method
from vdm_jax.diffusion import editing, likelihood, samplers
from vdm_jax.diffusion.prediction import Prediction
from vdm_jax.diffusion.process import q_sample
from vdm_jax.errors import UserError
from vdm_jax.keys import example_keys
from vdm_jax.methods import classifier_guidance
from vdm_jax.runtime import workdir

Labels = int | np.ndarray | None
# w of the only guidable condition, or of several by name; numbers or [count]
Weights = float | np.ndarray | Mapping[str, float | np.ndarray]


class Model(NamedTuple):
    """A method with its parameters. Images are integer values [N, H, W, C], 0 to `vocabulary` − 1.

    Attributes:
      config: the config of the run, or of published weights.
      method: the functions of the method.
      params: the parameters, averaged if `evaluation.weights` is 'ema'.
      step: the training step of the parameters.
    """

    config: ConfigDict
    method: Method
    params: Any
    step: int

    def sample(
        self,
        count: int = 16,
        *,
        seed: int = 0,
        num_steps: int | None = None,
        sampler: str | None = None,
        guidance_weight: Weights = 0.0,
        classifier: Model | None = None,
        classifier_scale: float | np.ndarray = 1.0,
        trajectory: bool = False,
        **conditions: Any,
    ) -> Any:
        """Draw samples. Sample k depends only on (seed, k) and its conditions.

        Args:
          count: number of samples.
          seed: seed of the noise.
          num_steps: number of sampling steps; None for that of the config.
          sampler: 'ancestral', 'ddim', 'euler', 'heun' or 'adaptive'; None for that of the config.
          guidance_weight: w of classifier-free guidance, (1 + w) ε̂_c − w ε̂_∅; one number or [count]. A "guidance scale"
            s is w = s − 1. For a model with several guidable conditions, a mapping from their names.
          classifier: a classifier of noisy images, of the same data and noise levels. Its ∇ log p(label|z) times
            `classifier_scale` (one number or [count]) is added to the score.
          trajectory: also return the latents z_s [num_steps, count, …].
          conditions: values by name of the condition, such as label=3 or label=[count] (default: that of the config,
            or the classes in turn) and low_resolution=[count, side, side, C], the images that an upsampler enlarges.

        Returns:
          Samples [count, …], or (samples, latents) with `trajectory`.

        Raises:
          UserError: the method draws no samples, a condition is missing or unknown, or a sample is not finite.
        """
        model = self._with({"sampling.sampler": sampler, "sampling.num_steps": num_steps})
        if model.method.sample is None:
            raise UserError(f"a model of method {self.config.method!r} draws no samples")
        if classifier is not None:
            model = model._guided(classifier, conditioning.finite("classifier_scale", classifier_scale, count))
        config, method = model.config, model.method
        assert method.sample is not None
        if not any(c.needs_evaluation_data for c in method.conditions):  # they have values of their own
            conditions = {**_requested(method, config, count), **{k: v for k, v in conditions.items() if v is not None}}
        values = conditioning.from_user(method.conditions, conditions, count, method.encode)
        cond = conditioning.guided(method.conditions, values, guidance_weight, count)
        steps = config.sampling.num_steps
        keep = tuple(range(steps)) if trajectory else ()
        run = jax.jit(method.sample, static_argnums=(3, 4))
        keys = example_keys(jax.random.key(seed), jnp.arange(count))
        samples, path, *evaluations = jax.device_get(run(model.params, keys, cond, steps, keep))
        chains.check_solved(config.sampling.get("tolerance", 0.0), *evaluations)
        chains.check_finite(samples)
        return (samples, path) if trajectory else samples

    def inpaint(
        self,
        images: np.ndarray,
        known: np.ndarray,
        *,
        seed: int = 0,
        num_steps: int | None = None,
        repeats: int = 1,
        labels: Labels = None,
        **conditions: Any,
    ) -> np.ndarray:
        """Replace the unknown pixels of images by samples (see `diffusion.editing`).

        Args:
          images: integer values [N, H, W, C].
          known: bool, broadcastable to the shape of `images`; True where a pixel is kept.
          seed: seed of the noise.
          num_steps: number of sampling steps; None for that of the config.
          repeats: how often each transition is resampled (RePaint); more improve coherence with the known pixels.
          labels, conditions: as for `sample`. An upsampler needs low_resolution, since the means of `images` would
            reveal the pixels to replace.

        Returns:
          Images [N, H, W, C] that equal `images` where `known` is True.
        """
        x = inputs.images(self.config, images)
        for c in self.method.conditions:
            if c.needs_evaluation_data and conditions.get(c.name) is None:
                raise UserError(f"inpainting by an upsampler needs the small images: pass {c.name}")
        mask = jnp.broadcast_to(jnp.asarray(known, bool), x.shape)
        edited = lambda step, f: editing.resampled(editing.inpaint(step, f, mask), repeats)
        return np.where(mask, images, self._edited(x, edited, 1.0, seed, num_steps, labels, conditions))

    def vary(
        self,
        images: np.ndarray,
        strength: float = 0.5,
        *,
        seed: int = 0,
        num_steps: int | None = None,
        labels: Labels = None,
    ) -> np.ndarray:
        """Return variations of images: noise them, then denoise them again (SDEdit, Meng et al. 2022).

        Args:
          images: integer values [N, H, W, C].
          strength: the fraction of the sampling steps to run, in (0, 1]; 1 starts from pure noise.
          seed: seed of the noise.
          num_steps: number of steps of the full sampler; None for that of the config.
          labels: as for `sample`.
        """
        if not 0 < strength <= 1:
            raise UserError(f"strength={strength} is the fraction of the steps to run; it must be in (0, 1]")
        return self._edited(inputs.images(self.config, images), lambda step, f: step, strength, seed, num_steps, labels)

    def bits_per_dim(
        self,
        images: np.ndarray,
        *,
        labels: Labels = None,
        seed: int = 0,
        passes: int = 1,
        estimator: str | None = None,
        num_timesteps: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Evaluate the bound on −log₂ p(x)/D, or on −log₂ p(x|label)/D for a model with classes, in bits/dim.

        Args:
          images: integer values [N, H, W, C].
          labels: int [N] or one label, for a model with classes.
          seed: seed of the noise.
          passes: number of passes to average over.
          estimator: 'vlb' or 'ode' (the probability flow); None for that of the config.
          num_timesteps: T of the discrete-time bound, 0 for continuous time; None for that of the config.

        Returns:
          Terms by name, each [N], averaged over passes. 'total' is the sum of 'reconstruction', 'prior' and 'diffusion'
          ('vlb'), or of 'encoder', 'flow' and 'reconstruction' ('ode'). Not part of the sum: 't' and
          'error' = ‖ε − ε̂‖²/D at t ('vlb'), 'evaluations' of the network ('ode').
        """
        changes = {"evaluation.estimator": estimator, "evaluation.num_timesteps": num_timesteps}
        method = self._with(changes).method
        if method.bits_per_dim is None:
            raise UserError(
                f"this model of method {self.config.method!r} has no likelihood (a student's is its teacher's)"
            )
        batch = {"x": inputs.images(self.config, images), "cond": self._columns(labels, len(images))}
        run = jax.jit(method.bits_per_dim)
        rows = []
        for number in range(passes):
            key = jax.random.fold_in(jax.random.key(seed), number)
            rows.append(run(self.params, batch, example_keys(key, jnp.arange(len(images)))))
        return {k: np.mean([np.asarray(row[k]) for row in rows], axis=0) for k in rows[0]}

    def noise(self, images: np.ndarray, gamma: float, *, seed: int = 0) -> Array:
        """Return z_t = α f + σ ε [N, …] of images at γ = −log SNR, a number within the range of the schedule."""
        ode, f = self._ode(gamma), self.method.encode(inputs.images(self.config, images))
        keys = example_keys(jax.random.key(seed), jnp.arange(len(images)))
        eps = jax.vmap(lambda k: jax.random.normal(k, f.shape[1:]))(keys)
        return q_sample(f, eps, ode.level_of(jnp.asarray(gamma)))

    def denoise(self, z: Array, gamma: float, labels: Labels = None) -> Prediction:
        """Return x̂ (in [−1, 1], bin centers) and ε̂ of latents z [N, …] at γ = −log SNR, within the schedule's range."""
        ode = self._ode(gamma)
        run = jax.jit(lambda z, g, cond: ode.predict(z, ode.level_of(g), cond))
        return run(jnp.asarray(z), jnp.asarray(gamma), self._columns(labels, len(z)))

    def encode(self, images: np.ndarray, labels: Labels = None) -> Array:
        """Return the latents z_1 [N, …] of images along the probability-flow ODE.

        The ODE starts at the mean of q(z_0|x), without its noise, so the latents are narrower than N(0, I). `decode`
        recovers the images.
        """
        ode, f = self._ode(), self.method.encode(inputs.images(self.config, images))
        z_0 = ode.level_of(ode.gamma_0).alpha * f
        return jax.jit(lambda z, cond: likelihood.encode(ode, z, cond))(z_0, self._columns(labels, len(z_0)))

    def decode(self, latents: Array, labels: Labels = None) -> np.ndarray:
        """Return the images [N, …] of latents z_1 [N, …]; the inverse of `encode`."""
        ode = self._ode()
        run = jax.jit(lambda z, cond: likelihood.decode(ode, z, cond))
        z_0 = run(latents, self._columns(labels, len(latents)))
        return np.asarray(self.method.decode(z_0, ode.level_of(ode.gamma_0)))

    @property
    def schedule(self) -> Any:
        """The noise schedule γ(t), with methods gamma(t), dgamma(t) and delta(t, dt)."""
        return self.method.schedule(self.params)

    @property
    def vocabulary(self) -> int | None:
        """Number of values of a pixel; None for continuous data."""
        return self.config.data.vocabulary or None

    def _edited(
        self,
        x: Array,
        wrapped: Callable[[samplers.Step, Array], samplers.Step],
        strength: float,
        seed: int,
        num_steps: int | None,
        labels: Labels,
        conditions: Mapping[str, Any] | None = None,
    ) -> np.ndarray:
        """Run a wrapped sampler from images [N, …] noised by a fraction `strength` of its steps, from pure noise at 1.

        conditions: values that are not computed from the images.
        """
        edited = self._with({"sampling.num_steps": num_steps})
        chain_of, count = edited.method.chain, edited.config.sampling.num_steps
        if chain_of is None:
            raise UserError(f"a model of method {self.config.method!r} has no sampling steps, so it cannot edit images")
        keys = example_keys(jax.random.key(seed), jnp.arange(len(x)))

        def run(params: Any, x: Array, cond: Any) -> Array:
            chain, f = chain_of(params, cond, count), self.method.encode(x)
            z, steps = chain.start(keys), chain.steps
            if strength < 1:
                z, steps = editing.noised_start(f, keys, chain.steps, strength)
            z, _ = samplers.run(wrapped(chain.step, f), z, chain.path_keys(keys), steps)
            return chain.end(z, keys)

        columns = self._columns(labels, len(x), conditions)
        cond = conditioning.of_batch(self.method.conditions, {"x": x, "cond": columns}, self.method.encode)
        samples = np.asarray(jax.jit(run)(self.params, x, cond))
        chains.check_finite(samples)
        return samples

    def _columns(self, labels: Labels, count: int, conditions: Mapping[str, Any] | None = None) -> dict[str, Array]:
        """Return the values of conditions that are passed by the caller or not computed from the images."""
        known = {k: v for k, v in (conditions or {}).items() if v is not None}
        given = {**({} if labels is None else {"label": labels}), **known}
        columns = [c for c in self.method.conditions if c.name in given or c.spec(1) is not None]
        return conditioning.from_user(columns, given, count, self.method.encode)

    def _ode(self, gamma: float | None = None) -> likelihood.ODE:
        """Return the probability flow; UserError if there is none or γ is outside its range."""
        if self.method.ode is None:
            raise UserError(f"{self.config.method} has no probability flow")
        ode: likelihood.ODE = self.method.ode(self.params)
        low, high = float(ode.gamma_0), float(ode.gamma_1)
        slack = 1e-5 * (high - low)  # rounding of float32
        if gamma is not None and not low - slack <= gamma <= high + slack:
            raise UserError(f"γ = {float(gamma):g} is outside the schedule, which goes from {low:g} to {high:g}")
        return ode

    def _guided(self, classifier: Model, scale: np.ndarray) -> Model:
        """Return this model with its samples guided by a classifier."""
        frozen.check_classifier(self.config, classifier.config, "that was given")
        method = classifier_guidance.build(self.config, classifier.config, jnp.asarray(scale))
        return self._replace(method=method, params={**self.params, classifier_guidance.CLASSIFIER: classifier.params})

    def _with(self, changes: dict[str, Any]) -> Model:
        """Return this model with other settings of sampling and evaluation; None leaves a field unchanged."""
        config = ConfigDict(self.config.to_dict())
        configs.choose(config, {name: value for name, value in changes.items() if value is not None})
        configs.check(config)
        return self._replace(config=config, method=methods.build(config))


def _requested(method: Method, config: ConfigDict, count: int) -> dict[str, Any]:
    """Return the values that the `sampling` section of the config requests, of conditions that a caller may set."""
    chosen = [c for c in method.conditions if c.chosen]
    return conditioning.requests(chosen, config, count)


def load(path: str, config: ConfigDict | str | None = None) -> Model:
    """Load a model.

    Args:
      path: a working directory, one of its checkpoints, or a file of published weights.
      config: for weights without a config.json: a ConfigDict, or the name of a config with its variants, such as
        'configs/cifar10.py'.

    Raises:
      UserError: there is no config, or the weights do not fit it.
    """
    if isinstance(config, str):
        config = configs.load(config)
    if config is None:
        owner, _ = weights.place(path)
        saved = workdir.saved_config(owner) if owner.is_dir() else None
        if saved is None:
            raise UserError(f"{path} holds no config.json; pass its config, e.g. config='configs/cifar10.py'")
        config = configs.from_saved(saved)
    configs.check(config)
    method = methods.build(config)
    params, step = weights.load(path, config, method)
    return Model(config, method, {**frozen.load_parts(method, training=False), **params}, step)
