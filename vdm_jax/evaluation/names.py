"""Names of results: a file name says what made it, so that results with other settings do not overwrite each other.

Samples are named by their step and by the settings that differ from config.json of the working directory; results of
`--mode=eval` by step, estimator, split, numbers of examples and passes, seed, weights and all settings that are not
the default. Every result also has a record of its settings. The same settings replace the same file; if two settings
have the same name, the later one gets a number.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from etils import epath
from ml_collections import ConfigDict

from vdm_jax.config import field_table, flatten, from_saved
from vdm_jax.core.method import Method
from vdm_jax.runtime import workdir

LONGEST = 160  # characters of a name; file systems allow 255 bytes with the suffixes
_PATHS = ("classifier", "classifier_config", "low_resolution")
_WORDS = {"num_steps": "steps", "num_images": "n", "guidance": "w", "guidance_interval": "interval"}
_VALUES = ("sampler", "weights", "dtype", "estimator", "classifier")  # settings whose value says which one it is
_FIRST = ("sampler", "num_steps", "seed", "guidance", "num_images", "weights")
_SPEED = ("batch_size",)  # results do not depend on it
_IN_STEM = ("label", "classifier_scale")
_IN_EVALUATION = ("estimator", "num_timesteps", "levels", "split", "examples", "passes", "seed", "weights")
_IN_SET = ("sampler", "num_steps", "num_images", "seed")


class Origin(NamedTuple):
    """What made samples besides the config.

    Attributes:
      weights: the path of `--weights`; '' for the checkpoints of the working directory.
      stages: the earlier stages of a pipeline, each with 'workdir', 'step' and 'sampling'.
    """

    weights: str = ""
    stages: tuple[dict[str, Any], ...] = ()


def slug(text: str) -> str:
    """Return text with letters, digits and '.+-' only, all else as '_'; 'vlb_T=100' gives 'vlb_T100'."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", text.replace("=", "")).strip("_.")


def setting(field: str, value: Any) -> str:
    """Return a setting as part of a file name: 'steps50', 'ddim', 'w0_1_3', 'clip', 'no_clip'."""
    name = _WORDS.get(field, field)
    if isinstance(value, bool):
        return name if value else f"no_{name}"
    if isinstance(value, str):
        shown = slug(epath.Path(value).stem if field in _PATHS else value) or "none"
        return shown if field in _VALUES else f"{name}_{shown}"
    values = value if isinstance(value, tuple | list) else (value,)
    return name + "_".join(f"{v:g}" if isinstance(v, int | float) else slug(str(v)) for v in values)


def _ordered(names: Mapping[str, Any]) -> list[str]:
    """Sort dotted names of fields, the most informative ones first."""
    place = {name: k for k, name in enumerate(_FIRST)}
    leaf = lambda name: name.rpartition(".")[2]
    return sorted(names, key=lambda name: (place.get(leaf(name), len(place)), name))


def _parts(changed: Mapping[str, Any]) -> list[str]:
    return [setting(name.rpartition(".")[2], changed[name]) for name in _ordered(changed)]


def sample_stem(
    config: ConfigDict, method: Method, step: int, directory: epath.Path | None = None, origin: Origin | None = None
) -> str:
    """Return the base name of files of samples.

    Args:
      config: the config.
      method: the method.
      step: the training step of the parameters.
      directory: the working directory, whose config.json has the settings that the name leaves out; without it (or
        without a config.json) the name has none of them.
      origin: what made the samples besides the config.

    Returns:
      The step, the conditions and the scale of a guiding classifier, and every setting that differs from config.json,
      such as '3000', '3000_label3' or '3000_ddim_steps50_seed7'.
    """
    section, origin = config.sampling, origin or Origin()
    own = workdir.saved_config(directory) if directory is not None else None
    changed = {} if own is None else _changed(config, method, own, origin)
    parts = [str(step), *_parts(changed)]
    if origin.stages:
        parts += ["after", *(slug(epath.Path(stage["workdir"]).name) for stage in origin.stages)]
    if origin.weights:
        parts += ["from", slug(epath.Path(origin.weights).name)]
    conditions = "".join(c.stem(config) for c in method.conditions)
    scale = f"_scale{section.classifier_scale:g}" if section.get("classifier") else ""
    return "_".join([f"{parts[0]}{conditions}{scale}", *parts[1:]])[:LONGEST]


def _changed(config: ConfigDict, method: Method, own: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
    """Return the fields on which samples depend and that differ from the config `own`, as config.json has it."""
    table, now, before = field_table(), dict(flatten(config)), dict(flatten(from_saved(own)))
    if "sampling.seed" in now:
        now["sampling.seed"] -= len(origin.stages)  # of `pipelines.seeded`
    others = ["evaluation.weights", "model.dtype"]
    others += ["evaluation.split"] * any(c.needs_evaluation_data for c in method.conditions)
    names = [name for name in now if name in others or name.startswith("sampling.")]
    skipped = {f"sampling.{leaf}" for leaf in (*_SPEED, *_IN_STEM)}
    return {n: now[n] for n in names if n not in skipped and now[n] != before.get(n, table[n].default)}


def made_samples(config: ConfigDict, step: int, origin: Origin | None = None) -> dict[str, Any]:
    """Return the record of what made samples: the section `sampling`, the weights, versions and the command."""
    origin = origin or Origin()
    return _plain(
        {
            "sampling": config.sampling.to_dict(),
            "step": step,
            "weights": config.evaluation.weights,
            "weights_from": _absolute(origin.weights) or f"checkpoints/{step}",
            "stages": origin.stages,
            "dtype": config.model.get("dtype", "float32"),
            "version": workdir.version("vdm_jax"),
            "command": workdir.command(),
        }
    )


def evaluation_name(config: ConfigDict, result: Mapping[str, Any], sets: str, collected: list[str]) -> str:
    """Return the base name of a result of an evaluation, such as 'step3000_vlb_T100_test_297x16_seed1_ema'.

    Args:
      config: the config.
      result: the content of eval.json.
      sets: the key of the result of a set of samples, which the result may lack.
      collected: the keys of the results of all examples together.
    """
    parts, section = [f"step{result['step']}"], config.evaluation
    if "passes" in result:
        measure = result.get("estimator") or result.get("headline", ["bits_per_dim"])[0]
        parts += [slug(measure), result["split"], f"{result['examples']}x{result['passes']}", f"seed{result['seed']}"]
    else:
        parts += [section.split]
    parts += [f"{name}{result[name]['examples']}" for name in collected if name in result]
    if sets in result:
        drawn = result[sets]
        changed = _not_default(config, "sampling", (*_IN_SET, *_SPEED))
        parts += [f"frechet{drawn['samples']}", drawn["sampler"], f"steps{drawn['num_steps']}", f"seed{drawn['seed']}"]
        parts += _parts(changed)
    parts += [result["weights"], *_parts(_not_default(config, "evaluation", (*_IN_EVALUATION, "num_samples", *_SPEED)))]
    if config.model.get("dtype", "float32") != "float32":
        parts += [config.model.dtype]
    if "weights_from" in result:
        parts += ["from", slug(epath.Path(result["weights_from"]).name)]
    return "_".join(map(str, parts))[:LONGEST]


def _not_default(config: ConfigDict, section: str, skipped: tuple[str, ...]) -> dict[str, Any]:
    """Return the fields of a section that are not at their default."""
    table, values = field_table(), dict(flatten(config[section], f"{section}."))
    left_out = {f"{section}.{leaf}" for leaf in skipped}
    return {n: v for n, v in values.items() if n not in left_out and n in table and v != table[n].default}


def made_evaluation(config: ConfigDict, sets: bool, source: str | None = None) -> dict[str, Any]:
    """Return the record of what made a result: `evaluation`, `sampling` if samples were drawn, the weights' path."""
    made: dict[str, Any] = {"evaluation": config.evaluation.to_dict()}
    if sets:
        made["sampling"] = config.sampling.to_dict()
    made |= {"dtype": config.model.get("dtype", "float32"), "version": workdir.version("vdm_jax")}
    return _plain(made | ({"weights_from": _absolute(source)} if source else {}))


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two records are of the same settings, whatever the version, the command and the batch sizes."""
    return _compared(one) == _compared(other)


def _compared(made: Mapping[str, Any]) -> dict[str, Any]:
    kept = {k: v for k, v in made.items() if k not in ("version", "command")}
    drop = lambda section: {k: v for k, v in section.items() if k not in _SPEED}
    return {k: drop(v) if isinstance(v, Mapping) else v for k, v in kept.items()}


def free(name: str, occupant: Callable[[str], Mapping[str, Any] | None], made: Mapping[str, Any]) -> str:
    """Return `name`, or `name` with the first number from 2 on that is not taken by another result.

    Args:
      name: the base name.
      occupant: base name → the record of the result that has it, {} if it has no record, or None if there is none.
      made: the record of the new result; a result of the same settings is replaced.
    """
    for number in itertools.count(1):
        candidate = name if number == 1 else f"{name}_{number}"
        there = occupant(candidate)
        if there is None or same(there, made):
            return candidate
    raise AssertionError


def _absolute(path: str | None) -> str:
    return os.path.abspath(os.path.expanduser(path)) if path and "://" not in path else path or ""


def _plain(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record as JSON keeps it."""
    plain: dict[str, Any] = json.loads(json.dumps(record))
    return plain
