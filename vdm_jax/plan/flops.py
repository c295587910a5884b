"""Floating-point operations of a function, counted from its jaxpr.

XLA's own count takes the body of a loop once; here a scan's body counts `length` times. Products of
matrices and convolutions are kept apart by dtype, because they alone run on the matrix units; a
multiply-add is two operations. Of a convolution only the pairs (output, tap) that meet an input count,
neither padding nor the zeros of a dilated input, so that both of its gradients cost what it costs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core

# One operation for each value they return.
_ARITHMETIC = (
    "add add_any sub mul div rem max min neg abs sign floor ceil round exp exp2 expm1 log log1p logistic tanh "
    "sin cos tan asin acos atan atan2 sinh cosh erf erf_inv erfc sqrt rsqrt cbrt pow integer_pow square "
    "nextafter lgamma digamma"
)
# One operation for each value they are given.
_GATHERING = "reduce_sum reduce_max reduce_min reduce_prod cumsum cummax cummin cumprod cumlogsumexp argmax argmin"
_ELEMENTWISE, _REDUCTIONS = frozenset(_ARITHMETIC.split()), frozenset(_GATHERING.split())
_OTHER, _LOOPS = "elementwise", "loops of unknown length"


class Flops(NamedTuple):
    """matrix: of dots and convolutions by dtype of their operands; elementwise: of everything else on
    floating-point numbers; unknown_loops: `while` loops whose body was counted once."""

    matrix: dict[str, int]
    elementwise: int
    unknown_loops: int

    @property
    def total(self) -> int:
        """Of dots and convolutions, what MFU is a share of."""
        return sum(self.matrix.values())


def average(found: Sequence[Flops], shares: Sequence[float]) -> Flops:
    """Of calls that come with these shares, whose sum is 1; the most unknown loops of any."""
    mean = lambda values: round(sum(share * value for share, value in zip(shares, values, strict=True)))
    dtypes = dict.fromkeys(dtype for one in found for dtype in one.matrix)
    matrix = {dtype: mean([one.matrix.get(dtype, 0) for one in found]) for dtype in dtypes}
    return Flops(matrix, mean([one.elementwise for one in found]), max(one.unknown_loops for one in found))


def count(jaxpr: core.Jaxpr | core.ClosedJaxpr) -> Flops:
    """Operations of one call, all devices together."""
    found = _count(jaxpr)
    matrix = {k: v for k, v in found.items() if k not in (_OTHER, _LOOPS)}
    return Flops(matrix, found[_OTHER], found[_LOOPS])


def of(function: Callable[..., Any], *arguments: Any) -> Flops:
    """Operations of a call on arguments of these shapes; nothing runs."""
    return count(jax.make_jaxpr(function)(*arguments))


def _count(jaxpr: Any) -> Counter[str]:
    found: Counter[str] = Counter()
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        found.update(_equation(equation))
    return found


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
    """The jaxprs that an equation runs. Those of a custom rule that is not differentiated run their
    function alone; reducers and updaters work on single values."""
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
    """2 · outputs · contracted."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[d] for d in contracted)


def _convolution(equation: Any) -> int:
    """2 · batch · output channels · input channels of a group · pairs (output, tap) along every axis."""
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
    """How many (output, tap) meet an input; spread: of the input, dilation: of the kernel."""
    place = stride * np.arange(outputs)[:, None] + dilation * np.arange(taps)[None, :] - before
    return int(np.sum((place >= 0) & (place <= (size - 1) * spread) & (place % spread == 0)))
