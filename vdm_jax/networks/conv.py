"""The convolution of all networks: NHWC × HWIO, SAME or symmetric padding, odd kernels, strides 1 and 2.

On a CPU, XLA runs the weight gradient that JAX derives 27–50 times slower inside any `scan` or `cond` than outside.
Here the convolution, its input gradient and its weight gradient are three operations, each a plain forward NHWC
convolution. They are each other's derivatives, so gradients of any order are fast inside loops. They do not support
forward mode (`jax.jvp`), so divergences use `vjp`. On other backends the three operations lower to native kernels.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name

from vdm_jax.networks.sharing import whole

# Name of these outputs for rematerialization policies.
CONV_OUTPUT = "conv"
_NHWC = ("NHWC", "HWIO", "NHWC")


def _padding(size: int, kernel: int, stride: int, padding: int | None) -> tuple[int, int]:
    """Return the padding (before, after): SAME if `padding` is None, else `padding` pixels on both sides."""
    if padding is not None:
        return padding, padding
    out = -(-size // stride)
    total = max((out - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv(x: Array, w: Array, stride: int = 1, padding: int | None = None) -> Array:
    """Convolve x [B, H, W, I] with w [kH, kW, I, O].

    H′ = ⌈H/stride⌉ if `padding` is None (SAME), else ⌊(H + 2 padding − kH)/stride⌋ + 1. At stride 2, SAME pads an even
    H only at the end (TensorFlow, Flax), whereas padding=1 pads both sides (PyTorch), so the two functions differ.

    Returns:
        [B, H′, W′, O].
    """
    pads = [_padding(s, k, stride, padding) for s, k in zip(x.shape[1:3], w.shape[:2], strict=True)]
    return lax.conv_general_dilated(x, w, (stride, stride), pads, dimension_numbers=_NHWC)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def conv_input_grad(g: Array, w: Array, size: tuple[int, int], stride: int, padding: int | None = None) -> Array:
    """Apply the adjoint of `conv` in x to g [B, H′, W′, O]; returns [B, H, W, I] with (H, W) = size."""
    pads = []
    for s, k, out in zip(size, w.shape[:2], g.shape[1:3], strict=True):
        before = k - 1 - _padding(s, k, stride, padding)[0]
        pads.append((before, s + k - 1 - ((out - 1) * stride + 1) - before))
    flipped = jnp.flip(w, (0, 1)).swapaxes(2, 3)
    return lax.conv_general_dilated(g, flipped, (1, 1), pads, lhs_dilation=(stride, stride), dimension_numbers=_NHWC)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def conv_weight_grad(x: Array, g: Array, kernel: tuple[int, int], stride: int, padding: int | None = None) -> Array:
    """Apply the adjoint of `conv` in w to x [B, H, W, I] and g [B, H′, W′, O].

    The batch axis serves as the input channels and the cotangents as the kernel, so the contraction is again a forward
    NHWC convolution.

    Returns:
        [kH, kW, I, O].
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

    The padding is that of `conv`. The layer computes in `dtype`; parameters are float32.
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
