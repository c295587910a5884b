"""The summary that a run prints before its first step."""

from __future__ import annotations

import math
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vdm_jax.data import Dataset
from vdm_jax.networks.sharing import FSDP
from vdm_jax.presets import papers
from vdm_jax.runtime import backends
from vdm_jax.training.program import Program
from vdm_jax.training.state import num_parameters


def bytes_per_device(abstract: Any, shardings: Any) -> int:
    """Return the bytes that a state with these shardings occupies on each device."""
    size = lambda a, s: math.prod(s.shard_shape(a.shape)) * a.dtype.itemsize
    return sum(jax.tree.leaves(jax.tree.map(size, abstract, shardings)))


def banner(
    config: ConfigDict, dataset: Dataset, program: Program, mesh: Mesh, start: int, directory: epath.Path
) -> str:
    """Return a few lines on the devices, the batch, the data, the parameters and the steps of a run."""
    device, count, section = jax.devices()[0], mesh.size, config.training
    size = config.data.batch_size
    begin = f"resuming at step {start} from {directory}" if start else f"starting at step 0 in {directory}"
    hosts = f", {jax.process_count()} processes" if jax.process_count() > 1 else ""
    shared = f", state over {mesh.shape[FSDP]}" if mesh.shape[FSDP] > 1 else ""
    parts = f" in {section.accumulate} parts" if section.accumulate > 1 else ""
    memory = bytes_per_device(program.abstract, program.shardings) / 2**20
    names = [f"{label} {name}" for label, name in dataset.class_names.items()]
    idle = [f"            {sentence}"] if (sentence := backends.unused()) else []
    mixed = [f"note        {sentence}"] if (sentence := papers.departure(config)) else []
    classes = [f"classes     {', '.join(names[:20])}{', …' * (len(names) > 20)}"] if names else []
    return "\n".join(
        [
            f"devices     {count} × {device.device_kind} ({device.platform}){hosts}, {section.parallelism}{shared}",
            *idle,
            f"batch       {size}, {size // count} a device{parts}",
            f"data        {dataset.name} {dataset.split}, {dataset.num_examples:,} examples ({dataset.version})",
            *classes,
            f"parameters  {num_parameters(program.abstract.params):,}; {memory:,.0f} MiB of state a device",
            f"steps       {section.num_steps:,}, "
            f"{section.num_steps * size / max(dataset.num_examples, 1):,.1f} epochs; {begin}",
            *mixed,
        ]
    )
