"""Pipelines: models in a row, each conditioned on samples of the one before it.

A cascade enlarges the samples of a base model stage by stage; a text-to-image model may draw an image embedding first.
The stages share the conditions that they have in common: an upsampler gets the labels of the images that it enlarges.
Stage k draws its noise from seed + k, since stages with one seed would share the beginning of their noise.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vdm_jax import arguments, conditioning
from vdm_jax.conditioning import Condition
from vdm_jax.core.method import Method
from vdm_jax.errors import UserError
from vdm_jax.evaluation import samples
from vdm_jax.runtime.processes import say


class Stage(NamedTuple):
    """A model of a pipeline that is not the last.

    Attributes:
        name: Its name in messages, such as its working directory.
        config: Its config.
        method: The method that the config builds.
        params: Its parameters; None until they are loaded.
        step: The training step of the parameters.
    """

    name: str
    config: ConfigDict
    method: Method
    params: Any = None
    step: int = 0

    @property
    def origin(self) -> dict[str, Any]:
        """Where its samples come from, as it is saved with samples of the last model."""
        return {"workdir": self.name, "step": self.step, "sampling": self.config.sampling.to_dict()}


def link(name: str, config: ConfigDict, following: Method) -> Condition:
    """Return the condition of a model that takes the samples of the model before it.

    Args:
      name: of the model before it, for messages.
      config: of the model before it.
      following: the model that is conditioned on its samples.

    Raises:
      UserError: no condition takes samples, or the samples do not fit.
    """
    takers = [c for c in following.conditions if c.takes_samples]
    if len(takers) != 1:
        known = " and ".join(c.name for c in following.conditions) or "nothing"
        raise UserError(
            f"the stage after {name} is conditioned on {known}, which cannot be the samples of {name}; "
            "put an upsampler of images of that size there"
        )
    takers[0].check_samples(tuple(config.data.shape), config.data.vocabulary, name)
    return takers[0]


def check(stages: Sequence[Stage], last: Method, config: ConfigDict) -> None:
    """Raise UserError if two neighbors do not fit, before anything is compiled; config: of the last model."""
    configs = [*(stage.config for stage in stages[1:]), config]
    label: int | None = None  # of the first stage that has labels; -1 for all classes in turn
    for stage, following, its in zip(stages, _after(stages, last), configs, strict=False):
        taken = link(stage.name, stage.config, following).name
        if its.sampling.get(taken):
            raise UserError(
                f"config.sampling.{taken}={its.sampling[taken]!r} and the stage {stage.name} both give {taken}; leave "
                "one of them out"
            )
        label = stage.config.sampling.get("label") if label is None else label
        own = its.sampling.get("label", -1)
        if label is not None and own not in (-1, label):
            raise UserError(
                f"config.sampling.label={own} is not the label of the samples of {stage.name}, which the next stage "
                f"takes too; set it for the first stage with labels, as in --stage='runs/base "
                f"--config.sampling.label={own}'"
            )


def draw(stages: Sequence[Stage], last: Method, mesh: Mesh, count: int, seed: int) -> dict[str, np.ndarray]:
    """Draw from all stages but the last; stage k draws from seed + k, whatever the seed of its own config.

    Returns:
      What the last one is conditioned on, by the name of the condition, [count, …].
    """
    known: dict[str, np.ndarray] = {}
    for number, (stage, following) in enumerate(zip(stages, _after(stages, last), strict=True)):
        began = time.monotonic()
        config = seeded(stage.config, seed + number)
        drawn = samples.sample(config, stage.method, stage.params, mesh, count, known=known)
        known = {**drawn.requested, link(stage.name, stage.config, following).name: drawn.images}
        say(f"stage {number + 1} of {len(stages) + 1}: {count} samples of {stage.name} in {_seconds(began)}")
    return known


def seeded(config: ConfigDict, seed: int) -> ConfigDict:
    """Return a copy of the config with another seed of samples."""
    copy = ConfigDict(config.to_dict())
    copy.sampling.seed = seed
    return copy


class Pipeline(NamedTuple):
    """Models (`vdm_jax.load`) in a row, in a notebook: `vdm_jax.Pipeline((base, upsampler)).sample(16)`."""

    models: tuple[Any, ...]

    def sample(
        self,
        count: int = 16,
        *,
        seed: int = 0,
        all_stages: bool = False,
        batch_size: int | None = None,
        progress: bool = True,
        **conditions: Any,
    ) -> np.ndarray | list[np.ndarray]:
        """Draw from the models one after the other.

        Args:
          count: number of samples.
          seed: stage k draws from seed + k.
          all_stages: return the samples of every stage.
          batch_size: the most samples that are drawn at once; None for that of each model's config.
          progress: show a progress bar for every model with several batches.
          conditions: values by the name of the condition, for every model that has it.

        Returns:
          Samples of the last model [count, …], or a list with those of every model.

        Raises:
          UserError: an argument is not valid, two neighbors do not fit, or no model has one of the conditions.
        """
        count, seed = arguments.whole("count", count, 1), arguments.whole("seed", seed, *arguments.SEEDS)
        links = [
            link(f"model {k + 1}", model.config, after.method).name
            for k, (model, after) in enumerate(zip(self.models, self.models[1:], strict=False))
        ]
        self._check_known(conditions, links)
        first = self.models[0]
        known: dict[str, Any] = {**conditioning.defaults(first.method.conditions, first.config, count), **conditions}
        drawn: list[np.ndarray] = []
        for number, model in enumerate(self.models):
            if number:
                known[links[number - 1]] = drawn[-1]
            names = {c.name for c in model.method.conditions}
            values = {name: value for name, value in known.items() if name in names}
            drawn.append(model.sample(count, seed=seed + number, batch_size=batch_size, progress=progress, **values))
        return drawn if all_stages else drawn[-1]

    def _check_known(self, conditions: Mapping[str, Any], links: Sequence[str]) -> None:
        names = {c.name for model in self.models for c in model.method.conditions}
        for name in conditions:
            if name not in names or name in links:
                what = "comes from the model before it" if name in links else "is no condition of these models"
                raise UserError(f"{name!r} {what}; leave it out")


def _after(stages: Sequence[Stage], last: Method) -> list[Method]:
    return [*(stage.method for stage in stages[1:]), last][: len(stages)]


def _seconds(began: float) -> str:
    return f"{time.monotonic() - began:.0f} s"
