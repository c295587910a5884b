"""Settings of multiscale U-Nets, and those of the published networks by name.

    settings("improved", width=192, depth=3, multipliers=(1, 2, 3, 4), num_classes=1000, outputs=2)

Architectures are data: `multiscale.UNet` implements all of them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from vdm_jax.common_fields import DENOISERS, DROPOUT, GROUPS, MEASURED, QKV_ORDER, REMAT, UNROLL
from vdm_jax.fields import Component, Field
from vdm_jax.networks.encoders import ClassEmbedding, ConcatImage, Encoder, LatentStyle

_FAMILY = Field(
    "improved",
    "multiscale U-Net of DDPM, Improved DDPM, guided diffusion (adm), DDPM++, NCSN++ or DDGAN",
    decisive=True,
)

_MULTISCALE = ("multiscale",)

COMPONENTS = (
    Component(
        {
            "model.multipliers": Field(
                (1.0, 2.0, 2.0, 2.0),
                "channels of each resolution over model.width",
                low=0.1,
                high=64,
                decisive=True,
            ),
            "model.attention_at": Field(
                (16,), "heights in pixels of the resolutions with attention", low=1, decisive=True
            ),
            "model.heads": Field(1, "number of attention heads", low=1, decisive=True),
            "model.head_channels": Field(
                0, "channels per attention head, instead of model.heads; 0 to use model.heads", low=0, decisive=True
            ),
            "model.depth": Field(4, "blocks at each resolution", low=1, decisive=True),
            "model.groups": GROUPS,
            "model.remat": REMAT,
            "model.unroll": UNROLL,
        },
        {"model.network": _MULTISCALE},
    ),
    Component({"model.dropout": DROPOUT}, {"method": MEASURED, "model.network": _MULTISCALE}),
    Component(
        {"model.family": _FAMILY._replace(choices=("ddpm", "improved", "adm", "ddpmpp", "ncsnpp"))},
        {"method": DENOISERS, "model.network": _MULTISCALE},
    ),
    Component(
        {"model.family": _FAMILY._replace(choices=("ddpm", "improved", "adm"))},
        {"method": ("classifier",), "model.network": _MULTISCALE},
    ),
    Component(
        {
            "model.family": _FAMILY._replace(
                default="ddgan", choices=("ddpm", "improved", "adm", "ddpmpp", "ncsnpp", "ddgan")
            )
        },
        {"method": ("ddgan",), "model.network": _MULTISCALE},
    ),
    Component(
        {
            "model.scale_shift": Field(
                True, "scale and shift the norm by the embedding of t, instead of adding it before", decisive=True
            )
        },
        {"model.family": ("improved", "adm")},
    ),
    Component(
        {
            "model.resample_blocks": Field(
                True, "resample inside residual blocks, instead of by separate convolutions", decisive=True
            ),
            "model.rescale": Field(False, "divide sums of residual branches by the square root of 2", decisive=True),
            "model.qkv_order": QKV_ORDER,
        },
        {"model.family": ("adm",)},
    ),
    Component(
        {
            "model.latent_width": Field(256, "units of the generator's mapping network", low=1, decisive=True),
            "model.mapping_depth": Field(3, "layers of the mapping network after the first", low=0, decisive=True),
        },
        {"model.family": ("ddgan",)},
    ),
)

CHOICES = {
    "embedding": ("ddpm", "improved", "fourier"),
    "entry": ("width", "level"),
    "resample": ("conv", "block"),
    "pyramid_in": ("none", "residual", "skip"),
    "pyramid_out": ("none", "skip"),
    "attention_up": ("block", "level"),
    "initial": ("ddpm", "torch"),
    "remat": ("none", "full", "convs"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a multiscale U-Net; the defaults are those of Ho et al. (2020).

    Attributes:
        width: Base width n; resolution i has width · multipliers[i] channels at 1/2^i of the size.
        depth: Encoder blocks per resolution; the decoder has one more.
        attention_at: Heights in pixels of the resolutions with attention; the middle always has it.
        heads, head_channels: Number of attention heads, or channels per head if head_channels > 0.
        outputs: 2 for a variance head with channels [ε̂ | v], else 1.
        encoders: Encoders of conditions; see `encoders`.
        entry: Channels of the first convolution: those of the finest resolution ('level'), or 'width'.
        scale_shift: True if the second norm is norm(h) (1 + scale) + shift, with scale and shift from the embedding;
            False if the embedding is added before the norm.
        groups, group_width: Groups of a group norm, fewer if a group would have less than group_width channels.
        epsilon: ε of the group norms.
        embedding, fourier_scale: Embedding of t, see `encoder.embed`; standard deviation of its fixed frequencies.
        scale_by_sigma: True to divide the output by σ = e^t; requires embedding='fourier'.
        resample: 'conv' for separate resampling convolutions, 'block' for resampling in residual blocks (BigGAN).
        padding: Padding of downsampling convolutions; None for SAME.
        fir: True for the filters of `resample` instead of boxes in blocks and pyramids.
        between_shortcut: True for a 1 × 1 shortcut in resampling blocks, which do not change the channels.
        rescale: True to divide sums of residual branches by √2.
        pyramid_in: Inputs of smaller copies of z at all resolutions: 'residual' convolutions, 1 × 1 'skip' or 'none'.
        pyramid_out: 'skip' to sum upsampled images of all resolutions, or 'none'.
        attention_up: Attention after every decoder 'block', or once at the end of a resolution ('level').
        initial, qkv_scale: Initializers; see `initial.start`.
        bounded: True to apply tanh to the output.
        dtype, remat, unroll: Options of the computation, which change neither parameters nor their initial values.
    """

    width: int = 128
    multipliers: tuple[float, ...] = (1, 2, 2, 2)
    depth: int = 2
    attention_at: tuple[int, ...] = (16,)
    heads: int = 1
    head_channels: int = 0
    dropout_rate: float = 0.0
    outputs: int = 1
    encoders: tuple[Encoder, ...] = ()
    entry: str = "width"
    scale_shift: bool = False
    groups: int = 32
    group_width: int = 1
    epsilon: float = 1e-6
    embedding: str = "ddpm"
    fourier_scale: float = 16.0
    scale_by_sigma: bool = False
    resample: str = "conv"
    padding: int | None = None
    fir: bool = False
    between_shortcut: bool = True
    rescale: bool = False
    pyramid_in: str = "none"
    pyramid_out: str = "none"
    attention_up: str = "block"
    initial: str = "ddpm"
    qkv_scale: float = 1.0
    bounded: bool = False
    dtype: Any = jnp.float32
    remat: str = "none"
    unroll: int = 1

    def channels(self) -> tuple[int, ...]:
        """Return the channels of every resolution."""
        return tuple(int(self.width * m) for m in self.multipliers)

    def entry_channels(self) -> int:
        """Return the output channels of the first convolution."""
        return self.channels()[0] if self.entry == "level" else self.width

    def heads_of(self, channels: int) -> int:
        """Return the number of attention heads for `channels` channels."""
        return channels // self.head_channels if self.head_channels else self.heads

    def attends(self, height: int) -> tuple[bool, ...]:
        """Return True for every resolution of an image of height `height` that has attention."""
        return tuple(height >> i in self.attention_at for i in range(len(self.multipliers)))

    def groups_of(self, channels: int) -> int:
        """Return the number of groups of a norm of `channels` channels."""
        return min(self.groups, channels // self.group_width)

    @property
    def num_classes(self) -> int:
        """The number of class embeddings, including the null class; 0 without class conditioning."""
        return sum(e.num_classes for e in self.encoders if isinstance(e, ClassEmbedding))

    @property
    def extra_channels(self) -> int:
        """The number of channels of images that are concatenated with z."""
        return sum(e.channels for e in self.encoders if isinstance(e, ConcatImage))

    @property
    def latent(self) -> int:
        """The dimension of the latent of a generator; 0 without a latent."""
        return sum(e.latent for e in self.encoders if isinstance(e, LatentStyle))


_IMPROVED: dict[str, Any] = {
    "depth": 3,
    "attention_at": (16, 8),
    "heads": 4,
    "scale_shift": True,
    "epsilon": 1e-5,
    "embedding": "improved",
    "padding": 1,
    "initial": "torch",
}

_DDPMPP: dict[str, Any] = {
    "depth": 4,
    "group_width": 4,
    "resample": "block",
    "rescale": True,
    "attention_up": "level",
    "qkv_scale": 0.1,
    "dropout_rate": 0.1,
}

FAMILIES: dict[str, dict[str, Any]] = {
    # Ho, Jain & Abbeel 2020; the defaults are those of CIFAR-10
    "ddpm": {"dropout_rate": 0.1},
    # Nichol & Dhariwal 2021; CIFAR-10: depth=3, dropout_rate=.3, outputs=2
    "improved": _IMPROVED,
    # Dhariwal & Nichol 2021; by resolution see `presets.guidance.MULTIPLIERS`
    "adm": _IMPROVED
    | {
        "depth": 2,
        "attention_at": (32, 16, 8),
        "heads": 1,
        "head_channels": 64,
        "resample": "block",
        "between_shortcut": False,
        "entry": "level",
        "outputs": 2,
    },
    # Song et al. 2021 (ICLR), appendix H; CIFAR-10: depth 4, deep: 8
    "ddpmpp": _DDPMPP,
    # the same for VE; under VP and sub-VP: embedding='ddpm', scale_by_sigma=False
    "ncsnpp": _DDPMPP | {"fir": True, "pyramid_in": "residual", "embedding": "fourier", "scale_by_sigma": True},
    # generator of Xiao et al. 2022; CIFAR-10: mapping_depth=4, at 256 pixels: width=64, multipliers=(1, 1, 2, 2, 4, 4)
    "ddgan": _DDPMPP
    | {"depth": 2, "dropout_rate": 0.0, "fir": True, "pyramid_in": "residual", "latent": 100, "bounded": True},
}


def settings(family: str, **overrides: Any) -> Settings:
    """Return the settings of the named network with overrides.

    Args:
        family: Key of FAMILIES.
        **overrides: Fields of `Settings`, and shorthands that are replaced by encoders: num_classes, the classes of
            'label'; extra_channels, the channels of 'low_resolution' (with side 1, because the side does not change the
            parameters); and latent, latent_width and mapping_depth of 'latent'.

    Raises:
        ValueError: A name is unknown, or the settings contradict each other.
    """
    if family not in FAMILIES:
        raise ValueError(f"family={family!r} is none of {', '.join(FAMILIES)}")
    known = {field.name for field in dataclasses.fields(Settings)} | set(_SHORTHANDS)
    if unknown := sorted(overrides.keys() - known):
        raise ValueError(f"{unknown[0]!r} is not a setting of a multiscale U-Net; it has {', '.join(sorted(known))}")
    made = Settings(**_with_encoders({**FAMILIES[family], **overrides}))
    for name, legal in CHOICES.items():
        if (value := getattr(made, name)) not in legal:
            raise ValueError(f"{name}={value!r} is none of {', '.join(legal)}")
    if made.scale_by_sigma and made.embedding != "fourier":
        raise ValueError(f"scale_by_sigma needs embedding='fourier', not {made.embedding!r}, because t is log σ")
    if made.head_channels and made.heads != 1:
        raise ValueError(
            f"heads={made.heads} and head_channels={made.head_channels} both set the number of heads; set one of them"
        )
    if made.fir and made.resample != "block":
        raise ValueError("fir=True filters inside blocks that resample; it needs resample='block'")
    return made


# Shorthands for the encoders of published networks.
_SHORTHANDS = ("num_classes", "extra_channels", "latent", "latent_width", "mapping_depth")


def _with_encoders(values: dict[str, Any]) -> dict[str, Any]:
    """Replace the shorthands in `values` by encoders."""
    short = {name: values.pop(name) for name in _SHORTHANDS if name in values}
    made: list[Encoder] = list(values.get("encoders", ()))
    if short.get("num_classes"):
        made.append(ClassEmbedding("label", short["num_classes"]))
    if short.get("extra_channels"):
        made.append(ConcatImage("low_resolution", 1, short["extra_channels"]))
    if short.get("latent"):
        made.append(
            LatentStyle("latent", short["latent"], short.get("latent_width", 256), short.get("mapping_depth", 3))
        )
    if len({encoder.name for encoder in made}) < len(made):
        raise ValueError(f"two encoders of one condition: {', '.join(encoder.name for encoder in made)}")
    return values | {"encoders": tuple(made)}


def check(s: Settings, shape: tuple[int, ...]) -> None:
    """Raise ValueError if the network does not support images of the shape (height, width, channels)."""
    height, width, _ = shape
    factor = 2 ** (len(s.multipliers) - 1)
    if height % factor or width % factor:
        raise ValueError(
            f"{len(s.multipliers)} multipliers halve the image {len(s.multipliers) - 1} times, "
            f"so {height} × {width} pixels must divide by {factor}"
        )
    if s.width % 2 or any(s.width * m != c or c < 1 for m, c in zip(s.multipliers, s.channels(), strict=True)):
        raise ValueError(f"width={s.width} must be even, and times each of multipliers={s.multipliers} an integer")
    for channels in _normed(s):
        groups = s.groups_of(channels)
        if groups < 1 or channels % groups:
            raise ValueError(f"groups={s.groups} do not divide a norm's {channels} channels (width={s.width})")
    for channels, attends in zip(s.channels(), s.attends(height), strict=True):
        if not (attends or channels == s.channels()[-1]):
            continue
        if channels % (s.head_channels or s.heads):
            parts = f"head_channels={s.head_channels}" if s.head_channels else f"heads={s.heads}"
            raise ValueError(f"{parts} do not divide the {channels} channels of a resolution with attention")


def _normed(s: Settings) -> set[int]:
    """Return the numbers of channels of all group norms."""
    own = s.channels()
    above, entering = (*own[1:], own[-1]), (s.entry_channels(), *own[:-1])
    sums = {a + c for a, c in zip(above, own, strict=True)} | {e + c for e, c in zip(entering, own, strict=True)}
    return {s.entry_channels(), *own, *sums, *((2 * c for c in own) if s.depth > 1 else ())}
