"""FSDP: all-gather each sharded kernel just before it is used, without keeping it for the backward pass.

Without these constraints XLA moves activations instead of kernels, and keeps the gathered kernels of all layers for the
backward pass. All functions are the identity unless the ambient mesh (`jax.sharding.use_abstract_mesh`) has an axis
'fsdp' of more than one device.
"""

from __future__ import annotations

from typing import Any

import jax
from flax.linen.dtypes import promote_dtype
from jax import Array
from jax.lax import with_sharding_constraint
from jax.sharding import PartitionSpec

DATA, FSDP = "data", "fsdp"
# A batch is sharded over all devices.
BATCH = PartitionSpec((DATA, FSDP))


def kernel_spec(shape: tuple[int, ...], devices: int) -> PartitionSpec:
    """Return the sharding of a kernel [..., inputs, outputs].

    The outputs are sharded over 'fsdp' if their number is divisible by `devices`, else the inputs, else the kernel is
    replicated. Other axes are never sharded: blocks are stacked along the first, and XLA would gather all blocks to
    read one of them.
    """
    for axis in (len(shape) - 1, len(shape) - 2):
        if shape[axis] % devices == 0:
            return PartitionSpec(*(None,) * axis, FSDP)
    return PartitionSpec()


def parts() -> int:
    """Return the number of devices over which one copy of the parameters is sharded."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.shape[FSDP] if FSDP in mesh.axis_names else 1


@jax.custom_vjp
def _gather(kernel: Array) -> Array:
    return with_sharding_constraint(kernel, PartitionSpec())


def _gather_fwd(kernel: Array) -> tuple[Array, None]:
    return _gather(kernel), None


def _gather_bwd(_: None, gradient: Array) -> tuple[Array]:
    return (with_sharding_constraint(gradient, kernel_spec(gradient.shape, parts())),)


_gather.defvjp(_gather_fwd, _gather_bwd)


def whole(kernel: Array) -> Array:
    """Gather a kernel on every device (all-gather); the backward pass reduce-scatters its gradient."""
    return kernel if parts() == 1 else _gather(kernel)


def promote_whole(*args: Array | None, dtype: Any = None, inexact: bool = True) -> list[Array | None]:
    """Promote dtypes as `flax.linen.Dense` and gather the kernel; casting first halves the traffic in bfloat16."""
    inputs, kernel, bias = promote_dtype(*args, dtype=dtype, inexact=inexact)
    return [inputs, None if kernel is None else whole(kernel), bias]


def over_batch(h: Array) -> Array:
    """Constrain activations [B, …] to be sharded over the batch axis."""
    return h if parts() == 1 else with_sharding_constraint(h, BATCH)


def not_gathered(primitive: Any, *_: Any, **settings: Any) -> bool:
    """Rematerialization policy: save everything for the backward pass except gathered kernels."""
    inside = settings.get("call_jaxpr")
    names = [primitive.name, *(equation.primitive.name for equation in (inside.eqns if inside else ()))]
    return "sharding_constraint" not in names
