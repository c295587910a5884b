"""The choices that tell U-Nets which resample apart, and the published ones by name.

    settings("improved", width=192, depth=3, multipliers=(1, 2, 3, 4), num_classes=1000, outputs=2)

Architectures are data: `multiscale.UNet` is one network for all of them.
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
    "whose multiscale U-Net: DDPM's, Improved DDPM's, guided diffusion's, DDPM++, NCSN++, DDGAN's generator",
    decisive=True,
)

_MULTISCALE = ("multiscale",)

COMPONENTS = (
    Component(
        {
            "model.multipliers": Field(
                (1.0, 2.0, 2.0, 2.0), "channels of each resolution over the width", low=0.1, high=64, decisive=True
            ),
            "model.attention_at": Field(
                (16,), "resolutions, in pixels, whose blocks have attention", low=1, decisive=True
            ),
            "model.heads": Field(1, "heads of attention", low=1, decisive=True),
            "model.head_channels": Field(
                0, "channels of a head, instead of a number of heads; 0 for model.heads", low=0, decisive=True
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
                True, "the embedding of t scales and shifts a norm; else it is added before it", decisive=True
            )
        },
        {"model.family": ("improved", "adm")},
    ),
    Component(
        {
            "model.resample_blocks": Field(
                True, "residual blocks halve and double, else convolutions of their own", decisive=True
            ),
            "model.rescale": Field(False, "sums of residual branches are divided by the root of 2", decisive=True),
            "model.qkv_order": QKV_ORDER,
        },
        {"model.family": ("adm",)},
    ),
    Component(
        {
            "model.latent_width": Field(256, "units of the generator's mapping network", low=1, decisive=True),
            "model.mapping_depth": Field(3, "layers of the mapping network after its first", low=0, decisive=True),
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
    """A U-Net that resamples; the defaults are those of Ho et al. (2020).

    width: n channels; level i has width · multipliers[i] of them at 1/2^i of the resolution.
    depth: blocks of each level on the way down; one more on the way up.
    attention_at: heights in pixels of the levels whose blocks have attention; the middle always has it.
    heads: of attention; head_channels: channels of each instead, as many heads as there is room for; 0 for `heads`.
    outputs: 2 for a variance head, channels [ε̂ | v]. encoders: of conditions, see `encoders`.
    entry: channels of the first convolution, those of the 'level' that it enters or the 'width'.
    scale_shift: the embedding turns the second norm into norm(h) (1 + scale) + shift; else it is added before it.
    groups: of a group norm, fewer if they would have less than group_width channels. epsilon: its ε.
    embedding: of t, see `encoder.embed`. fourier_scale: deviation of its fixed frequencies.
    scale_by_sigma: the output is divided by σ = e^t ('fourier' only).
    resample: by 'conv'olutions of their own or inside a residual 'block' (BigGAN); padding: of convolutions that
    halve, None for SAME; fir: filters instead of pixels when halving and doubling inside blocks and pyramids;
    between_shortcut: blocks that resample have a 1 × 1 shortcut though they change no channels.
    rescale: sums of residual branches are divided by √2.
    pyramid_in: smaller copies of z join the levels, by 'residual' convolutions or 1 × 1 'skip's; pyramid_out:
    images of all levels are summed, each doubled to the next ('skip').
    attention_up: after every 'block' on the way up, or once at the end of the 'level'.
    initial, qkv_scale: of kernels, see `initial.start`.
    bounded: tanh at the end.
    dtype, remat, unroll: how it is computed; they change neither parameters nor their initial values.
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
        """Of every level."""
        return tuple(int(self.width * m) for m in self.multipliers)

    def entry_channels(self) -> int:
        """Of the first convolution."""
        return self.channels()[0] if self.entry == "level" else self.width

    def heads_of(self, channels: int) -> int:
        """Of an attention over so many channels."""
        return channels // self.head_channels if self.head_channels else self.heads

    def attends(self, height: int) -> tuple[bool, ...]:
        """Which levels of an image of that height have attention."""
        return tuple(height >> i in self.attention_at for i in range(len(self.multipliers)))

    def groups_of(self, channels: int) -> int:
        return min(self.groups, channels // self.group_width)

    @property
    def num_classes(self) -> int:
        """Vectors of classes, the null class among them; 0 without."""
        return sum(e.num_classes for e in self.encoders if isinstance(e, ClassEmbedding))

    @property
    def extra_channels(self) -> int:
        """Channels of images that are concatenated with z."""
        return sum(e.channels for e in self.encoders if isinstance(e, ConcatImage))

    @property
    def latent(self) -> int:
        """Numbers of a generator's latent; 0 without."""
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
    # Ho, Jain & Abbeel 2020; CIFAR-10 as it stands here
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
    """The named network with other values for some of its settings.

    Besides those: num_classes, the vectors of 'label'; extra_channels, those of 'low_resolution' (of one pixel: the
    side does not change the parameters); latent, latent_width and mapping_depth of 'latent'. They are encoders.

    Raises ValueError for a name that is not known, or settings that contradict each other.
    """
    if family not in FAMILIES:
        raise ValueError(f"family={family!r} is none of {', '.join(FAMILIES)}")
    known = {field.name for field in dataclasses.fields(Settings)} | set(_SHORTHANDS)
    if unknown := sorted(overrides.keys() - known):
        raise ValueError(f"{unknown[0]!r} is no setting of a multiscale U-Net; it has {', '.join(sorted(known))}")
    made = Settings(**_with_encoders({**FAMILIES[family], **overrides}))
    for name, legal in CHOICES.items():
        if (value := getattr(made, name)) not in legal:
            raise ValueError(f"{name}={value!r} is none of {', '.join(legal)}")
    if made.scale_by_sigma and made.embedding != "fourier":
        raise ValueError(f"scale_by_sigma needs embedding='fourier', which is told log σ, not {made.embedding!r}")
    if made.head_channels and made.heads != 1:
        raise ValueError(f"heads={made.heads} and head_channels={made.head_channels} both set the heads; one is enough")
    if made.fir and made.resample != "block":
        raise ValueError("fir=True filters inside blocks that resample; it needs resample='block'")
    return made


# Encoders by the numbers that published networks have of them.
_SHORTHANDS = ("num_classes", "extra_channels", "latent", "latent_width", "mapping_depth")


def _with_encoders(values: dict[str, Any]) -> dict[str, Any]:
    """The same values with encoders in the place of their shorthands."""
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
    """Raise ValueError if the network can't take images of that shape, (height, width, channels)."""
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
            raise ValueError(f"{parts} do not divide the {channels} channels of a level with attention")


def _normed(s: Settings) -> set[int]:
    """Channels that a group norm sees."""
    own = s.channels()
    above, entering = (*own[1:], own[-1]), (s.entry_channels(), *own[:-1])
    sums = {a + c for a, c in zip(above, own, strict=True)} | {e + c for e, c in zip(entering, own, strict=True)}
    return {s.entry_channels(), *own, *sums, *((2 * c for c in own) if s.depth > 1 else ())}
