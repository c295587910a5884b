"""Floating-point operations of a function, counted from its jaxpr.

XLA's own count includes the body of a loop only once; here the body of a scan counts `length` times. Matrix
products and convolutions are counted by dtype, because only they run on the matrix units; a multiply-add is
two operations. A convolution counts only the pairs (output, tap) that meet an input, not padding or the zeros
of a dilated input, so that each of its gradients costs as much as the convolution.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core

# One operation per output value.
_ARITHMETIC = (
    "add add_any sub mul div rem max min neg abs sign floor ceil round exp exp2 expm1 log log1p logistic tanh "
    "sin cos tan asin acos atan atan2 sinh cosh erf erf_inv erfc sqrt rsqrt cbrt pow integer_pow square "
    "nextafter lgamma digamma"
)
# One operation per input value.
_GATHERING = "reduce_sum reduce_max reduce_min reduce_prod cumsum cummax cummin cumprod cumlogsumexp argmax argmin"
_ELEMENTWISE, _REDUCTIONS = frozenset(_ARITHMETIC.split()), frozenset(_GATHERING.split())
_OTHER, _LOOPS = "elementwise", "loops of unknown length"


class Flops(NamedTuple):
    """Operation counts of a function.

    Attributes:
      matrix: operations of dots and convolutions by dtype of the operands.
      elementwise: all other floating-point operations.
      unknown_loops: the number of `while` loops, whose body is counted once.
    """

    matrix: dict[str, int]
    elementwise: int
    unknown_loops: int

    @property
    def total(self) -> int:
        """Operations of dots and convolutions, the numerator of MFU."""
        return sum(self.matrix.values())


def average(found: Sequence[Flops], shares: Sequence[float]) -> Flops:
    """Average counts with weights `shares`, whose sum is 1; unknown_loops is the maximum."""
    mean = lambda values: round(sum(share * value for share, value in zip(shares, values, strict=True)))
    dtypes = dict.fromkeys(dtype for one in found for dtype in one.matrix)
    matrix = {dtype: mean([one.matrix.get(dtype, 0) for one in found]) for dtype in dtypes}
    return Flops(matrix, mean([one.elementwise for one in found]), max(one.unknown_loops for one in found))


def count(jaxpr: core.Jaxpr | core.ClosedJaxpr) -> Flops:
    """Count the operations of one call, summed over devices."""
    counts = _count(jaxpr)
    matrix = {k: v for k, v in counts.items() if k not in (_OTHER, _LOOPS)}
    return Flops(matrix, counts[_OTHER], counts[_LOOPS])


def of(function: Callable[..., Any], *arguments: Any) -> Flops:
    """Count the operations of a call on arguments of these shapes, without running it."""
    return count(jax.make_jaxpr(function)(*arguments))


def _count(jaxpr: Any) -> Counter[str]:
    counts: Counter[str] = Counter()
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        counts.update(_equation(equation))
    return counts


def _equation(equation: Any) -> Counter[str]:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        return _matrix(equation, _dot(equation))
    if name == "conv_general_dilated":
        return _matrix(equation, _convolution(equation))
    if name in _ELEMENTWISE:
        return Counter({_OTHER: sum(map(_floats, equation.outvars))})
    if name in _REDUCTIONS:
        return Counter({_OTHER: sum(map(_floats, equation.invars))})
    if name == "cond":
        return max(map(_count, parameters["branches"]), key=lambda c: c.total() - c[_LOOPS])
    times = 1
    if name == "scan":
        times = parameters["length"]
    elif name == "shard_map":  # its body has the shapes of one device
        mesh = parameters["mesh"]
        axes = parameters.get(
            "newly_manual_axes", parameters.get("manual_axes", mesh.axis_names)
        )  # renamed in JAX 0.10
        times = math.prod(mesh.shape[axis] for axis in axes)
    inner = Counter({_LOOPS: 1}) if name == "while" else Counter()
    for sub in _bodies(name, parameters):
        inner.update(_count(sub))
    return Counter({k: v * (1 if k == _LOOPS else times) for k, v in inner.items()})


def _bodies(name: str, parameters: dict[str, Any]) -> Iterator[Any]:
    """Yield the jaxprs that an equation runs.

    A custom rule that is not differentiated runs only its function; reducers and updaters act on single values.
    """
    if name.startswith(("reduce", "scatter", "select_and")):
        return
    for value in parameters.values():
        if isinstance(value, core.Jaxpr | core.ClosedJaxpr):
            yield value


def _matrix(equation: Any, flops: int) -> Counter[str]:
    dtype = np.result_type(*(v.aval.dtype for v in equation.invars[:2])) if flops else np.dtype("float32")
    return Counter({str(dtype): flops})


def _floats(variable: Any) -> int:
    aval = variable.aval
    floating = hasattr(aval, "dtype") and jax.numpy.issubdtype(aval.dtype, jax.numpy.inexact)
    return math.prod(aval.shape) if floating else 0


def _dot(equation: Any) -> int:
    """Return 2 · outputs · size of the contracted axes."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[d] for d in contracted)


def _convolution(equation: Any) -> int:
    """Return 2 · batch · output channels · input channels per group · pairs (output, tap) along each axis."""
    p = equation.params
    lhs, rhs = (v.aval.shape for v in equation.invars[:2])
    out = equation.outvars[0].aval.shape
    numbers = p["dimension_numbers"]
    pairs = 1
    for axis, stride in enumerate(p["window_strides"]):
        pairs *= _pairs(
            lhs[numbers.lhs_spec[2 + axis]],
            rhs[numbers.rhs_spec[2 + axis]],
            out[numbers.out_spec[2 + axis]],
            stride,
            p["padding"][axis][0],
            p["lhs_dilation"][axis],
            p["rhs_dilation"][axis],
        )
    return 2 * out[numbers.out_spec[0]] * out[numbers.out_spec[1]] * rhs[numbers.rhs_spec[1]] * pairs


def _pairs(size: int, taps: int, outputs: int, stride: int, before: int, spread: int, dilation: int) -> int:
    """Count the pairs (output, tap) that meet an input; spread: input dilation, dilation: kernel dilation."""
    place = stride * np.arange(outputs)[:, None] + dilation * np.arange(taps)[None, :] - before
    return int(np.sum((place >= 0) & (place <= (size - 1) * spread) & (place % spread == 0)))
