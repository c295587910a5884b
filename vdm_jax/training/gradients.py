"""The gradients of one phase of a step, of a complete batch or accumulated over microbatches."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vdm_jax.core.method import STATE, Batch, Context, Phase, Terms
from vdm_jax.training.state import trained


def strided(tree: Any, parts: int) -> Any:
    """Reshape leaves [b, …] to [parts, b / parts, …], where part j has the rows j, j + parts, ….

    Adjacent rows stay on their device, so this moves no data of a sharded batch.
    """
    return jax.tree.map(lambda a: a.reshape(a.shape[0] // parts, parts, *a.shape[1:]).swapaxes(0, 1), tree)


def unstrided(tree: Any) -> Any:
    """Invert `strided`: reshape leaves [parts, b / parts, …] to [b, …]."""
    return jax.tree.map(lambda a: a.swapaxes(0, 1).reshape(-1, *a.shape[2:]), tree)


class Gradients(NamedTuple):
    """The loss and gradients of one phase.

    Attributes:
      loss: the sum over these rows divided by the size of the global batch, [].
      per_example: the loss of each row, [b].
      aux: auxiliary values of each row, [b] each.
      grads: the gradients of `loss`.
      state: what `Phase.project` receives.
    """

    loss: Array
    per_example: Array
    aux: dict[str, Array]
    grads: Any
    state: Any = ()


def loss_of(phase: Phase, params: Any, extra: Any, batch: Batch, context: Context) -> tuple[Array, Terms, Any]:
    """Return the loss [b], its aux of per-example values, and its state."""
    per_example, aux = phase.loss(params, extra, batch, context)
    return per_example, {name: value for name, value in aux.items() if name != STATE}, aux.get(STATE, ())


def _with(params: Any, part: Any) -> Any:
    """Return params with the trained part; gradients of the others are stopped."""
    return {**jax.lax.stop_gradient(params), **part}


def _gradients(phase: Phase, params: Any, extra: Any, batch: Batch, context: Context) -> Gradients:
    def scalar(part: Any) -> tuple[Array, tuple[Array, Terms, Any]]:
        per_example, aux, state = loss_of(phase, _with(params, part), extra, batch, context)
        return jnp.sum(per_example) / context.total, (per_example, aux, state)

    (loss, (per_example, aux, state)), grads = jax.value_and_grad(scalar, has_aux=True)(trained(phase, params))
    return Gradients(loss, per_example, aux, grads, state)


def accumulated(phase: Phase, params: Any, extra: Any, batch: Batch, context: Context, parts: int) -> Gradients:
    """Return the gradients of a batch, accumulated over `parts` microbatches."""
    if parts == 1:
        return _gradients(phase, params, extra, batch, context)
    if phase.coupling is not None:
        return _through_embeddings(phase, params, extra, batch, context, parts)

    def of_part(part: tuple[Batch, Array, Array]) -> Gradients:
        rows, keys, index = part
        return _gradients(phase, params, extra, rows, context._replace(keys=keys, index=index))

    def add(total: Any, part: tuple[Batch, Array, Array]) -> tuple[Any, tuple[Array, dict[str, Array]]]:
        new = of_part(part)
        return jax.tree.map(jnp.add, total, (new.loss, new.grads)), (new.per_example, new.aux)

    pieces = strided((batch, context.keys, context.index), parts)
    shapes = jax.eval_shape(of_part, jax.tree.map(lambda a: a[0], pieces))
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), (shapes.loss, shapes.grads))
    (loss, grads), examples = jax.lax.scan(add, zeros, pieces)
    per_example, aux = unstrided(examples)
    return Gradients(loss, per_example, aux, grads)


def _through_embeddings(phase: Phase, params: Any, extra: Any, batch: Batch, context: Context, parts: int) -> Gradients:
    """Return the exact gradients of a loss that couples the batch, with one microbatch in memory at a time.

    The embeddings of all microbatches are computed without gradients, then the loss and its gradient in the embeddings,
    and then every microbatch is embedded again to pull that gradient back to the parameters (Gao et al. 2021,
    arXiv:2101.06983, GradCache). Both passes have the same keys, so dropout and noise agree.
    """
    assert phase.coupling is not None
    embed, loss, mine = phase.coupling.embed, phase.coupling.loss, trained(phase, params)
    pieces = strided((batch, context.keys, context.index), parts)

    def embedded(part: Any, piece: tuple[Batch, Array, Array]) -> Any:
        rows, keys, index = piece
        return embed(_with(params, part), extra, rows, context._replace(keys=keys, index=index))

    def scalar(part: Any, embeddings: Any) -> tuple[Array, tuple[Array, Terms]]:
        per_example, aux = loss(_with(params, part), extra, embeddings, batch, context)
        return jnp.sum(per_example) / context.total, (per_example, aux)

    def add(total: Any, pulled: tuple[Any, Any]) -> tuple[Any, None]:
        piece, cotangent = pulled
        _, pull_back = jax.vjp(lambda part: embedded(part, piece), mine)
        return jax.tree.map(jnp.add, total, pull_back(cotangent)[0]), None

    _, embeddings = jax.lax.scan(lambda _, piece: (None, embedded(mine, piece)), None, pieces)
    found, gradients = jax.value_and_grad(scalar, (0, 1), has_aux=True)(mine, unstrided(embeddings))
    (value, (per_example, aux)), (direct, of_embeddings) = found, gradients
    grads, _ = jax.lax.scan(add, direct, (pieces, strided(of_embeddings, parts)))
    return Gradients(value, per_example, aux, grads)
