"""A trained model in a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from vdm_jax import arguments
from vdm_jax.api import batches, drawing, inputs, measuring, outputs, programs
from vdm_jax.api.clip import ClipModel
from vdm_jax.api.drawing import Guide, Settings, Weights
from vdm_jax.core.method import Method
from vdm_jax.diffusion.prediction import Prediction
from vdm_jax.errors import UserError

Labels = int | np.ndarray | None


class Model(NamedTuple):
    """A method with its parameters. Images are integer values [N, H, W, C], 0 to `vocabulary` − 1.

    Functions return NumPy arrays. Each is compiled once per settings and shape; more examples than a batch are computed
    in batches of one shape.

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

    def __repr__(self) -> str:
        return outputs.description(self.config, self.params, self.step)

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
        clip: ClipModel | None = None,
        clip_scale: float | np.ndarray = 1.0,
        trajectory: bool = False,
        batch_size: int | None = None,
        progress: bool = True,
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
          clip: a CLIP of noised images of the same size. The gradient of its logit of the caption times `clip_scale`
            (one number or [count]) is added to the score; pass caption='…' or a list of [count] captions.
          trajectory: also return the latents z_s [num_steps, count, …].
          batch_size: the most examples that are computed at once; None for that of the config (sampling.batch_size).
          progress: show a progress bar when there are several batches.
          conditions: values by name of the condition, such as label=3 or label=[count] (default: that of the config,
            or the classes in turn) and low_resolution=[count, side, side, C], the images that an upsampler enlarges.

        Returns:
          Samples [count, …], or (samples, latents) with `trajectory`. Images are uint8 if they have at most 256 values.

        Raises:
          UserError: an argument is not valid, the method draws no samples, a condition is missing or unknown, or a
            sample is not finite.
        """
        count, seed = arguments.whole("count", count, 1), _seed(seed)
        model = self._with({"sampling.sampler": sampler, "sampling.num_steps": num_steps})
        guides = [
            *_guide("classifier", Model, classifier, classifier_scale),
            *_guide("clip", ClipModel, clip, clip_scale),
        ]
        how = self._batching("sampling", batch_size, progress)
        drawn, path = drawing.samples(model, count, seed, guidance_weight, guides, trajectory, conditions, how)
        return (drawn, path) if trajectory else drawn

    def inpaint(
        self,
        images: np.ndarray,
        known: np.ndarray,
        *,
        seed: int = 0,
        num_steps: int | None = None,
        repeats: int = 1,
        labels: Labels = None,
        batch_size: int | None = None,
        progress: bool = True,
        **conditions: Any,
    ) -> np.ndarray:
        """Replace the unknown pixels of images by samples (see `diffusion.editing`).

        Args:
          images: integer values [N, H, W, C].
          known: bool, broadcastable to the shape of `images`; True where a pixel is kept.
          seed: seed of the noise.
          num_steps: number of sampling steps; None for that of the config.
          repeats: how often each transition is resampled (RePaint); more improve coherence with the known pixels.
          batch_size: the most examples that are computed at once; None for that of the config (sampling.batch_size).
          progress: show a progress bar when there are several batches.
          labels, conditions: as for `sample`. An upsampler needs low_resolution, since the means of `images` would
            reveal the pixels to replace.

        Returns:
          Images [N, H, W, C] that equal `images` where `known` is True.
        """
        x, seed, repeats = inputs.images(self.config, images), _seed(seed), arguments.whole("repeats", repeats, 1)
        for c in self.method.conditions:
            if c.needs_evaluation_data and conditions.get(c.name) is None:
                raise UserError(f"inpainting by an upsampler needs the small images: pass {c.name}")
        mask, model = inputs.mask(known, x.shape), self._with({"sampling.num_steps": num_steps})
        edit = programs.Edit(model.config.sampling.num_steps, repeats=repeats)
        how = self._batching("sampling", batch_size, progress)
        return drawing.edited(model, x, edit, seed, labels, conditions, how, mask)

    def vary(
        self,
        images: np.ndarray,
        strength: float = 0.5,
        *,
        seed: int = 0,
        num_steps: int | None = None,
        labels: Labels = None,
        batch_size: int | None = None,
        progress: bool = True,
    ) -> np.ndarray:
        """Return variations of images: noise them, then denoise them again (SDEdit, Meng et al. 2022).

        Args:
          images: integer values [N, H, W, C].
          strength: the fraction of the sampling steps to run, in (0, 1]; 1 starts from pure noise.
          seed: seed of the noise.
          num_steps: number of steps of the full sampler; None for that of the config.
          labels: as for `sample`.
          batch_size: the most examples that are computed at once; None for that of the config (sampling.batch_size).
          progress: show a progress bar when there are several batches.
        """
        x, seed, model = inputs.images(self.config, images), _seed(seed), self._with({"sampling.num_steps": num_steps})
        steps = model.config.sampling.num_steps
        edit = programs.Edit(steps, inputs.strength(strength, steps))
        return drawing.edited(model, x, edit, seed, labels, {}, self._batching("sampling", batch_size, progress))

    def bits_per_dim(
        self,
        images: np.ndarray,
        *,
        labels: Labels = None,
        seed: int = 0,
        passes: int = 1,
        estimator: str | None = None,
        num_timesteps: int | None = None,
        batch_size: int | None = None,
        progress: bool = True,
    ) -> dict[str, np.ndarray]:
        """Evaluate the bound on −log₂ p(x)/D, or on −log₂ p(x|label)/D for a model with classes, in bits/dim.

        Args:
          images: integer values [N, H, W, C].
          labels: int [N] or one label, for a model with classes.
          seed: seed of the noise.
          passes: number of passes to average over.
          estimator: 'vlb' or 'ode' (the probability flow); None for that of the config.
          num_timesteps: T of the discrete-time bound, 0 for continuous time; None for that of the config.
          batch_size: the most examples that are computed at once; None for that of the config (evaluation.batch_size).
          progress: show a progress bar when there are several batches.

        Returns:
          Terms by name, each [N], averaged over passes. 'total' is the sum of 'reconstruction', 'prior' and 'diffusion'
          ('vlb'), or of 'encoder', 'flow' and 'reconstruction' ('ode'). Not part of the sum: 't' and
          'error' = ‖ε − ε̂‖²/D at t ('vlb'), 'evaluations' of the network ('ode').
        """
        seed, passes = _seed(seed), arguments.whole("passes", passes, 1)
        model = self._with({"evaluation.estimator": estimator, "evaluation.num_timesteps": num_timesteps})
        how = self._batching("evaluation", batch_size, progress)
        return measuring.bits_per_dim(model, images, labels, seed, passes, how)

    def noise(self, images: np.ndarray, gamma: float, *, seed: int = 0) -> np.ndarray:
        """Return z_t = α f + σ ε [N, …] of images at γ = −log SNR, a number within the range of the schedule."""
        how = self._batching("evaluation", None, False)
        return measuring.noise(self._with({}), images, gamma, _seed(seed), how)

    def denoise(
        self,
        z: ArrayLike,
        gamma: float,
        labels: Labels = None,
        *,
        batch_size: int | None = None,
        progress: bool = True,
    ) -> Prediction:
        """Return x̂ (in [−1, 1], bin centers) and ε̂ of latents z [N, …] at γ = −log SNR, within the schedule's range."""
        how = self._batching("evaluation", batch_size, progress)
        return measuring.denoise(self._with({}), z, gamma, labels, how)

    def encode(
        self, images: np.ndarray, labels: Labels = None, *, batch_size: int | None = None, progress: bool = True
    ) -> np.ndarray:
        """Return the latents z_1 [N, …] of images along the probability-flow ODE.

        The ODE starts at the mean of q(z_0|x), without its noise, so the latents are narrower than N(0, I). `decode`
        recovers the images.
        """
        how = self._batching("evaluation", batch_size, progress)
        return measuring.encode(self._with({}), images, labels, how)

    def decode(
        self, latents: ArrayLike, labels: Labels = None, *, batch_size: int | None = None, progress: bool = True
    ) -> np.ndarray:
        """Return the images [N, …] of latents z_1 [N, …]; the inverse of `encode`."""
        how = self._batching("evaluation", batch_size, progress)
        return measuring.decode(self._with({}), latents, labels, how)

    @property
    def schedule(self) -> Any:
        """The noise schedule γ(t), with methods gamma(t), dgamma(t) and delta(t, dt), which are JAX functions."""
        return self.method.schedule(self.params)

    @property
    def vocabulary(self) -> int | None:
        """Number of values of a pixel; None for continuous data."""
        return self.config.data.vocabulary or None

    def _batching(self, section: str, batch_size: int | None, progress: bool) -> batches.Batching:
        return batches.batching(batch_size, self.config.get(section, {}).get("batch_size", 64), progress)

    def _with(self, changes: Mapping[str, Any]) -> Settings:
        """Return this model with other settings of sampling and evaluation; None leaves a field unchanged."""
        return drawing.changed(Settings(self.config, self.method, self.params), changes)


def _guide(key: str, kind: type[Any], given: Any, scale: Any) -> list[Guide]:
    """Return the guide with its scale, if there is one; UserError for another type, and for a scale without a guide."""
    if given is None:
        if np.any(np.asarray(scale) != 1):
            raise UserError(f"{key}_scale has no effect without a {key}; pass {key}=vdm_jax.load(…)")
        return []
    if not isinstance(given, kind):
        raise UserError(f"{key} must be a model, not {type(given).__name__}; pass vdm_jax.load(…)")
    return [Guide(key, Settings(given.config, given.method, given.params), scale)]


def _seed(given: Any) -> int:
    return arguments.whole("seed", given, *arguments.SEEDS)
