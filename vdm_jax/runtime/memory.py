"""Out of memory, of a device or of the host, in one sentence that names the settings to change."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Sequence

import jax
from ml_collections import ConfigDict

from vdm_jax.errors import UserError

_WORDS = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory", "OUT_OF_MEMORY", "Ran out of memory")
_DETAIL = 200  # characters of XLA's message that are shown
_INDEX = 2**31 - 1  # the largest index of a sample, an int32


def exhausted(error: BaseException) -> bool:
    """Return whether an exception means that memory has run out: of XLA at compile or run time, or of NumPy."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, jax.errors.JaxRuntimeError) and any(word in str(error) for word in _WORDS)


def sentence(error: BaseException, doing: str, advice: Sequence[str]) -> str:
    """Return the sentence for an exception that `exhausted` recognizes, such as 'out of memory in training (…); …'."""
    said = next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)
    said = said.removeprefix("RESOURCE_EXHAUSTED: ").removeprefix("INTERNAL: ").rstrip(". ")[:_DETAIL]
    return f"out of memory in {doing} ({said}); {_either(advice)}"


@contextlib.contextmanager
def explained(doing: str, advice: Sequence[str]) -> Iterator[None]:
    """Turn the exceptions of exhausted memory inside this context into a UserError with the original as its cause.

    Args:
      doing: what runs, such as 'training'.
      advice: the settings to change, in the order in which to try them.

    Raises:
      UserError: memory has run out.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if not exhausted(error):
            raise
        raise UserError(sentence(error, doing, advice)) from error


def when_training(config: ConfigDict, devices: int) -> list[str]:
    """Return the settings that reduce the memory of a training step."""
    section, rows = config.training, config.data.batch_size // devices
    larger = [parts for parts in range(section.accumulate + 1, rows + 1) if rows % parts == 0]
    settings = []
    if larger:
        settings.append(f"set config.training.accumulate={larger[0]} (it is {section.accumulate})")
    if config.model.get("remat", "full") != "full":
        settings.append("config.model.remat='full'")
    if devices > section.fsdp and section.parallelism == "jit":
        settings.append(f"config.training.fsdp={devices}")
    settings.append(f"a config.data.batch_size smaller than {config.data.batch_size}")
    return settings


def when_evaluating(config: ConfigDict) -> list[str]:
    """Return the settings that reduce the memory of an evaluation."""
    settings = [f"set config.evaluation.batch_size to less than {config.evaluation.get('batch_size', 64)}"]
    return [*settings, *(when_sampling(config) if config.evaluation.get("num_samples", 0) else [])]


def when_sampling(config: ConfigDict) -> list[str]:
    """Return the settings that reduce the memory of sampling."""
    return [f"set config.sampling.batch_size to less than {config.sampling.batch_size}"]


def check_samples(name: str, count: int, shape: Sequence[int], states: int = 0) -> None:
    """Check that a set of samples can be numbered and fits in the memory of this machine.

    Args:
      name: the setting that decides the number of samples, for the message.
      count: the number of samples.
      shape: the shape of one sample.
      states: the number of latents that are kept of each sample.

    Raises:
      UserError: they do not fit.
    """
    needed, there = 4 * count * math.prod(shape) * (1 + states), host()
    if count > _INDEX or (there and needed > there):
        size = f"{needed / 2**30:,.0f} GiB of memory, and this machine has {there / 2**30:,.0f} GiB"
        raise UserError(f"{name}={count} samples take {size}; draw fewer at a time, with another seed each time")


def host() -> int:
    """Return the bytes of memory of this machine, 0 if unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0


def _either(advice: Sequence[str]) -> str:
    """Join alternatives: 'a', 'a or b', 'a, b or c'."""
    *others, last = advice
    return f"{', '.join(others)} or {last}" if others else last
