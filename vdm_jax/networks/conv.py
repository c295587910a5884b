"""One convolution for all networks: NHWC × HWIO, SAME or symmetric padding, odd kernels, strides 1 and 2.

XLA on a CPU runs the weight gradient that JAX derives 27–50 times slower inside any `scan` or `cond`
than outside. Here the convolution, its input gradient and its weight gradient are three operations,
each a plain forward NHWC convolution, that differentiate into each other, so gradients of any order
keep their speed inside loops. The price is forward mode: `jax.jvp` through them is given up, and
divergences use `vjp`. On other backends the same three operations lower to the native kernels.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name

from vdm_jax.networks.sharing import whole

# How policies of rematerialisation know these outputs.
CONV_OUTPUT = "conv"
_NHWC = ("NHWC", "HWIO", "NHWC")


def _padding(size: int, kernel: int, stride: int, padding: int | None) -> tuple[int, int]:
    """None is SAME: outputs ⌈size/stride⌉, the odd pixel of padding behind. Else so many pixels on both sides."""
    if padding is not None:
        return padding, padding
    out = -(-size // stride)
    total = max((out - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv(x: Array, w: Array, stride: int = 1, padding: int | None = None) -> Array:
    """x: [B, H, W, I], w: [kH, kW, I, O] → [B, H′, W′, O].

    H′ = ⌈H/stride⌉ with padding None (SAME), else ⌊(H + 2 padding − kH)/stride⌋ + 1. At stride 2 SAME pads an
    even H behind only (TensorFlow, Flax), padding=1 on both sides (PyTorch): the two are different functions.
    """
    pads = [_padding(s, k, stride, padding) for s, k in zip(x.shape[1:3], w.shape[:2], strict=True)]
    return lax.conv_general_dilated(x, w, (stride, stride), pads, dimension_numbers=_NHWC)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def conv_input_grad(g: Array, w: Array, size: tuple[int, int], stride: int, padding: int | None = None) -> Array:
    """The adjoint of `conv` in x: g [B, H′, W′, O] → [B, H, W, I] with (H, W) = size."""
    pads = []
    for s, k, out in zip(size, w.shape[:2], g.shape[1:3], strict=True):
        before = k - 1 - _padding(s, k, stride, padding)[0]
        pads.append((before, s + k - 1 - ((out - 1) * stride + 1) - before))
    flipped = jnp.flip(w, (0, 1)).swapaxes(2, 3)
    return lax.conv_general_dilated(g, flipped, (1, 1), pads, lhs_dilation=(stride, stride), dimension_numbers=_NHWC)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def conv_weight_grad(x: Array, g: Array, kernel: tuple[int, int], stride: int, padding: int | None = None) -> Array:
    """The adjoint of `conv` in w: x [B, H, W, I], g [B, H′, W′, O] → [kH, kW, I, O].

    The batch takes the place of the input channels, so that the contraction is again a forward
    NHWC convolution; cotangents take the place of the kernel.
    """
    pads = []
    for s, k, size in zip(x.shape[1:3], kernel, g.shape[1:3], strict=True):
        before = _padding(s, k, stride, padding)[0]
        pads.append((before, (size - 1) * stride + k - s - before))
    out = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        g.transpose(1, 2, 0, 3),
        (1, 1),
        pads,
        rhs_dilation=(stride, stride),
        dimension_numbers=_NHWC,
    )
    return out.transpose(1, 2, 0, 3)


_Pair = tuple[Array, Array]
_Size = tuple[int, int]


def _conv_fwd(x: Array, w: Array, stride: int, padding: int | None) -> tuple[Array, _Pair]:
    return conv(x, w, stride, padding), (x, w)


def _conv_bwd(stride: int, padding: int | None, saved: _Pair, g: Array) -> _Pair:
    x, w = saved
    return (
        conv_input_grad(g, w, x.shape[1:3], stride, padding),
        conv_weight_grad(x, g, w.shape[:2], stride, padding),
    )


def _input_grad_fwd(g: Array, w: Array, size: _Size, stride: int, padding: int | None) -> tuple[Array, _Pair]:
    return conv_input_grad(g, w, size, stride, padding), (g, w)


def _input_grad_bwd(size: _Size, stride: int, padding: int | None, saved: _Pair, u: Array) -> _Pair:
    g, w = saved
    return conv(u, w, stride, padding), conv_weight_grad(u, g, w.shape[:2], stride, padding)


def _weight_grad_fwd(x: Array, g: Array, kernel: _Size, stride: int, padding: int | None) -> tuple[Array, _Pair]:
    return conv_weight_grad(x, g, kernel, stride, padding), (x, g)


def _weight_grad_bwd(kernel: _Size, stride: int, padding: int | None, saved: _Pair, v: Array) -> _Pair:
    x, g = saved
    return conv_input_grad(g, v, x.shape[1:3], stride, padding), conv(x, v, stride, padding)


conv.defvjp(_conv_fwd, _conv_bwd)
conv_input_grad.defvjp(_input_grad_fwd, _input_grad_bwd)
conv_weight_grad.defvjp(_weight_grad_fwd, _weight_grad_bwd)


class Conv(nn.Module):
    """Convolution layer with the parameters of `flax.linen.Conv` ('kernel' HWIO, 'bias').

    padding: as in `conv`. Computes in `dtype`; parameters stay float32.
    """

    features: int
    kernel: tuple[int, int] = (3, 3)
    stride: int = 1
    dtype: jnp.dtype = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    padding: int | None = None
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (*self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        y = conv(x.astype(self.dtype), whole(kernel.astype(self.dtype)), self.stride, self.padding)
        y = checkpoint_name(y, CONV_OUTPUT)
        if not self.use_bias:
            return y
        bias = self.param("bias", self.bias_init, (self.features,))
        return y + bias.astype(self.dtype).reshape(1, 1, 1, -1)
