"""A trained model in a notebook: `model = vdm_jax.load(path)`; no flags, no global state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from vdm_jax import config as configs
from vdm_jax import methods, weights
from vdm_jax.diffusion import editing, likelihood, samplers
from vdm_jax.diffusion.prediction import Prediction
from vdm_jax.diffusion.process import q_sample
from vdm_jax.errors import UserError
from vdm_jax.methods import flows
from vdm_jax.methods.base import Method, example_keys
from vdm_jax.methods.conditioning import Guided, asked
from vdm_jax.training import workdir


class Model(NamedTuple):
    """Parameters with the functions that go with them. Images are integer levels [N, H, W, C]."""

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
        label: int | np.ndarray | None = None,
        guidance_weight: float | np.ndarray = 0.0,
        trajectory: bool = False,
    ) -> Any:
        """`count` samples [count, …]; with trajectory also the latents z_s [num_steps, count, …].

        Sample k depends on (seed, k) and its label alone. sampler: 'ancestral', 'ddim', 'euler', 'heun', 'adaptive'.
        label: of all samples, or [count]; without one that of the config, or the classes in turn. guidance_weight: w of
        classifier-free guidance, (1 + w) ε̂_c − w ε̂_∅, of all samples or [count]; a "guidance scale" s is w = s − 1.
        """
        model = self._with({"sampling.sampler": sampler, "sampling.num_steps": num_steps})
        if model.method.sample is None:
            raise UserError(f"a model of method {self.config.method!r} draws no samples")
        keys = example_keys(jax.random.key(seed), jnp.arange(count))
        if label is None and self.method.classes:
            label = asked(self.config, self.method.classes, np.arange(count))
        run = jax.jit(model.method.sample, static_argnums=(3, 4))
        steps = model.config.sampling.num_steps
        keep = tuple(range(steps)) if trajectory else ()
        told = self._guided(self._told(label, count), guidance_weight)
        samples, path, *evaluations = jax.device_get(run(self.params, keys, told, steps, keep))
        flows.check_solved(self.config, *evaluations)
        return (samples, path) if trajectory else samples

    def inpaint(
        self,
        images: np.ndarray,
        known: np.ndarray,
        *,
        seed: int = 0,
        num_steps: int | None = None,
        repeats: int = 1,
        labels: int | np.ndarray | None = None,
    ) -> np.ndarray:
        """Images that keep their known pixels and have new ones elsewhere, [N, …] (see `diffusion.editing`).

        known: bool, [N, H, W, C] or what broadcasts to it. repeats: how often each transition is taken; more of
        them make the new pixels go better with the known ones.
        """
        x = self._check(images)
        mask = jnp.broadcast_to(jnp.asarray(known, bool), x.shape)
        edited = lambda step, f: editing.resampled(editing.inpaint(step, f, mask), repeats)
        return np.where(mask, images, self._edited(x, edited, 1.0, seed, num_steps, labels))

    def vary(
        self,
        images: np.ndarray,
        strength: float = 0.5,
        *,
        seed: int = 0,
        num_steps: int | None = None,
        labels: int | np.ndarray | None = None,
    ) -> np.ndarray:
        """Images like the given ones, [N, …]: noised by `strength` in (0, 1], the share of the steps that are run,
        and denoised again (SDEdit, Meng et al. 2022)."""
        if not 0 < strength <= 1:
            raise UserError(f"strength={strength} is the share of the steps to run, more than 0 and at most 1")
        return self._edited(self._check(images), lambda step, f: step, strength, seed, num_steps, labels)

    def bits_per_dim(
        self,
        images: np.ndarray,
        *,
        labels: int | np.ndarray | None = None,
        seed: int = 0,
        passes: int = 1,
        estimator: str | None = None,
        num_timesteps: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Terms of the bound on −log₂ p(x)/D, of −log₂ p(x|label)/D if there are classes; each [N], a mean over passes.

        estimator: 'vlb' (num_timesteps = 0 for continuous time) or 'ode'. 'total' is the sum of the terms:
        'reconstruction', 'prior' and 'diffusion' of 'vlb', 'encoder', 'flow' and 'reconstruction' of 'ode'.
        Beside them, no part of the sum: 't' and 'error' = ‖ε − ε̂‖²/D there, or the ODE's 'evaluations'.
        """
        changes = {"evaluation.estimator": estimator, "evaluation.num_timesteps": num_timesteps}
        method = self._with(changes).method
        if method.bits_per_dim is None:
            raise UserError(
                f"this model of method {self.config.method!r} has no likelihood (a student's is its teacher's)"
            )
        batch = {"image": self._check(images), "conditioning": self._told(labels, len(images))}
        run = jax.jit(method.bits_per_dim)
        rows = []
        for number in range(passes):
            key = jax.random.fold_in(jax.random.key(seed), number)
            rows.append(run(self.params, batch, example_keys(key, jnp.arange(len(images)))))
        return {k: np.mean([np.asarray(row[k]) for row in rows], axis=0) for k in rows[0]}

    def noise(self, images: np.ndarray, gamma: float, *, seed: int = 0) -> Array:
        """z_t = α f + σ ε at γ = −log SNR, [N, …]; γ within the schedule's range."""
        ode, f = self._ode(gamma), self.method.encode(self._check(images))
        keys = example_keys(jax.random.key(seed), jnp.arange(len(images)))
        eps = jax.vmap(lambda k: jax.random.normal(k, f.shape[1:]))(keys)
        return q_sample(f, eps, ode.level_of(jnp.asarray(gamma)))

    def denoise(self, z: Array, gamma: float, labels: int | np.ndarray | None = None) -> Prediction:
        """x̂ (in [−1, 1], bin centres) and ε̂ of latents z [N, …] at γ = −log SNR within the schedule's range."""
        ode = self._ode(gamma)
        run = jax.jit(lambda z, g, cond: ode.predict(z, ode.level_of(g), cond))
        return run(jnp.asarray(z), jnp.asarray(gamma), self._told(labels, len(z)))

    def encode(self, images: np.ndarray, labels: int | np.ndarray | None = None) -> Array:
        """Latents z_1 of images along the probability-flow ODE, [N, …].

        Starts at the mean of q(z_0|x), without its noise, so the latents are narrower than N(0, I);
        `decode` gives the images back.
        """
        ode, f = self._ode(), self.method.encode(self._check(images))
        z_0 = ode.level_of(ode.gamma_0).alpha * f
        return jax.jit(lambda z, cond: likelihood.encode(ode, z, cond))(z_0, self._told(labels, len(z_0)))

    def decode(self, latents: Array, labels: int | np.ndarray | None = None) -> np.ndarray:
        """Latents z_1 → images, the inverse of `encode`."""
        ode = self._ode()
        run = jax.jit(lambda z, cond: likelihood.decode(ode, z, cond))
        z_0 = run(latents, self._told(labels, len(latents)))
        return np.asarray(self.method.decode(z_0, ode.level_of(ode.gamma_0)))

    @property
    def schedule(self) -> Any:
        """γ(t) with .gamma(t), .dgamma(t) and .delta(t, dt)."""
        return self.method.schedule(self.params)

    @property
    def vocabulary(self) -> int | None:
        """Number of levels of a value; None for continuous data."""
        return self.config.data.vocabulary or None

    def _edited(
        self,
        x: Array,
        wrapped: Callable[[samplers.Step, Array], samplers.Step],
        strength: float,
        seed: int,
        num_steps: int | None,
        labels: int | np.ndarray | None,
    ) -> np.ndarray:
        """What the wrapped sampler makes of images [N, …], noised by a share of its steps; of pure noise at 1."""
        edited = self._with({"sampling.num_steps": num_steps})
        chain_of, count = edited.method.chain, edited.config.sampling.num_steps
        if chain_of is None:
            raise UserError(f"a model of method {self.config.method!r} has no steps to edit by")
        keys = example_keys(jax.random.key(seed), jnp.arange(len(x)))

        def run(params: Any, x: Array, told: Any) -> Array:
            chain, f = chain_of(params, told, count), self.method.encode(x)
            z, steps = chain.start(keys), chain.steps
            if strength < 1:
                z, steps = editing.noised_start(f, keys, chain.steps, strength)
            z, _ = samplers.run(wrapped(chain.step, f), z, chain.path_keys(keys), steps)
            return chain.end(z, keys)

        return np.asarray(jax.jit(run)(self.params, x, self._told(labels, len(x))))

    def _ode(self, gamma: float | None = None) -> likelihood.ODE:
        """The probability flow; UserError if γ is not on it."""
        if self.method.ode is None:
            raise UserError(f"{self.config.method} has no probability flow")
        ode: likelihood.ODE = self.method.ode(self.params)
        low, high = float(ode.gamma_0), float(ode.gamma_1)
        slack = 1e-5 * (high - low)  # rounding of float32
        if gamma is not None and not low - slack <= gamma <= high + slack:
            raise UserError(f"γ = {float(gamma):g} is outside the schedule, which goes from {low:g} to {high:g}")
        return ode

    def _with(self, changes: dict[str, Any]) -> Model:
        """This model under other settings of sampling and evaluation; None leaves a field."""
        config = ConfigDict(self.config.to_dict())
        for name, value in changes.items():
            if value is not None:
                section, _, field = name.partition(".")
                config[section][field] = value
        configs.check(config)
        return self._replace(config=config, method=methods.build(config))

    def _told(self, labels: int | np.ndarray | None, count: int) -> Array:
        """What the network is told of `count` examples besides z and t, [count]."""
        classes, null = self.config.model.num_classes, self.config.model.null_class
        if not classes:
            if labels is not None:
                raise UserError("labels were given, but this model knows none (config.model.num_classes=0)")
            return jnp.zeros(count)
        if labels is None:
            raise UserError(f"this model is told labels, 0 to {classes - 1}; give one, or one for each of the {count}")
        given = np.asarray(labels)
        if given.dtype.kind not in "iu" or given.shape not in ((), (count,)):
            raise UserError(f"labels are one integer or {count} of them, not {given.dtype} of shape {given.shape}")
        given = np.broadcast_to(given, (count,))
        if count and (given.min() < 0 or given.max() >= classes + null):
            raise UserError(f"labels are 0 to {classes + null - 1}, these go from {given.min()} to {given.max()}")
        return jnp.asarray(given, jnp.int32)

    def _guided(self, label: Array, weight: float | np.ndarray) -> Any:
        """The labels, with the weight of each if there is guidance."""
        if not np.any(weight):
            return label
        if not self.config.model.null_class:
            raise UserError("guidance needs a model that was also trained without labels (config.model.null_class)")
        if not np.all(np.isfinite(weight)) or np.shape(weight) not in ((), label.shape):
            raise UserError(f"guidance_weight is a finite number or one for each of the {len(label)} samples")
        return Guided(label, jnp.broadcast_to(jnp.asarray(weight, jnp.float32), label.shape))

    def _check(self, images: np.ndarray) -> Array:
        shape, levels = tuple(self.config.data.shape), self.vocabulary
        images = np.asarray(images)
        if images.shape[1:] != shape:
            raise UserError(f"images of shape {images.shape[1:]} given, the model is for {shape}")
        if levels and images.size and (images.min() < 0 or images.max() >= levels):
            raise UserError(f"images must be levels 0 to {levels - 1}, these go to {images.max()}")
        return jnp.asarray(images)


def load(path: str, config: ConfigDict | str | None = None) -> Model:
    """A model from a working directory, one of its checkpoints, or published weights.

    config: only for weights that come without one: a ConfigDict, or the name of a packaged config
    with its variants, such as 'configs/cifar10.py'.
    """
    if isinstance(config, str):
        config = configs.load(config)
    if config is None:
        owner, _ = weights.place(path)
        saved = workdir.saved_config(owner) if owner.is_dir() else None
        if saved is None:
            raise UserError(f"{path} holds no config.json; say which config it belongs to, e.g. 'configs/cifar10.py'")
        config = configs.from_saved(saved)
    configs.check(config)
    method = methods.build(config)
    params, step = weights.load(path, config, method)
    return Model(config, method, params, step)
