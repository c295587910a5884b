"""Fields that describe a network."""

from __future__ import annotations

from vdm_jax.errors import UserError
from vdm_jax.fields import Given, demand


def check_width(given: Given) -> None:
    width = given["model.width"]
    demand(width % 2 == 0, f"config.model.width={width} must be even; try {width + 1}")


def check_norms(given: Given) -> None:
    check_width(given)
    width, groups = given["model.width"], given["model.groups"]
    demand(
        width % groups == 0,
        f"config.model.groups={groups} must divide config.model.width={width}; "
        f"try config.model.groups={max(g for g in range(1, min(width, groups) + 1) if width % g == 0)}",
    )
    demand(
        groups < width,
        f"config.model.groups={groups} must be less than config.model.width={width}: the norm of a single channel "
        f"takes away what the network is told of t; try config.model.groups={width // 2}",
    )


def check_residual(given: Given) -> None:
    demand(
        given["model.prediction"] == "eps",
        "config.model.residual='pixel' is an estimate of eps beside the U-Net's; "
        "set config.model.prediction='eps' and config.model.network='unet'",
    )


def check_shape(given: Given) -> None:
    network, shape = given["model.network"], tuple(given["data.shape"])
    demand(
        len(shape) == (1 if network == "mlp" else 3),
        f"config.data.shape={shape} does not suit config.model.network={network!r}: "
        "'unet', 'multiscale' and 'refinenet' take (height, width, channels), 'mlp' (dimensions,)",
    )
    demand(
        given["data.vocabulary"] != 1,
        "config.data.vocabulary=1 has one level and nothing to learn; 0 is for continuous data",
    )


def check_variance(given: Given) -> None:
    network = given["model.network"]
    demand(
        network == "multiscale",
        f"config.model.variance='learned' needs a network with a variance head, which {network!r} has not; "
        "set config.model.network='multiscale'",
    )


def check_refinenet(given: Given) -> None:
    demand(
        given["method"] in ("sde", "dequantiser")
        and given["schedule.kind"] == "ve_sde"
        and given.get("model.told") == "index",
        "config.model.network='refinenet' is NCSN's, which is told the number of its level; set config.method='sde', "
        "config.schedule.kind='ve_sde' and config.model.told='index'",
    )
    height, width, _ = given["data.shape"]
    demand(
        height % 2 == 0 and width % 2 == 0,
        f"config.data.shape={tuple(given['data.shape'])} cannot be halved, as config.model.network='refinenet' does",
    )
    demand(
        given["model.prediction"] == "eps",
        f"config.model.prediction={given['model.prediction']!r}: NCSN's network gives a score; set it to 'eps'",
    )


def check_multiscale(given: Given) -> None:
    height, width, _ = given["data.shape"]
    demand(bool(given["model.multipliers"]), "config.model.multipliers=() has no resolution; try (1.0, 2.0)")
    halvings = len(given["model.multipliers"]) - 1
    demand(
        height == width,
        f"config.data.shape={tuple(given['data.shape'])} is not square, and config.model.network='multiscale' names "
        "its resolutions by one side (config.model.attention_at); make the images square, those of a folder by "
        "config.data.resize='crop' or 'pad', or set config.model.network='unet'",
    )
    demand(
        height % 2**halvings == 0,
        f"config.data.shape={tuple(given['data.shape'])} cannot be halved {halvings} times, as the "
        f"{halvings + 1} resolutions of config.model.multipliers={tuple(given['model.multipliers'])} do",
    )
    resolutions = [height >> k for k in range(halvings + 1)]
    for size in given["model.attention_at"]:
        demand(
            size in resolutions,
            f"config.model.attention_at has {size}, but the network's resolutions are "
            f"{', '.join(map(str, resolutions))}",
        )
    for multiplier in given["model.multipliers"]:
        channels = multiplier * given["model.width"]
        demand(
            channels == int(channels)
            and channels % given["model.groups"] == 0
            and channels % given["model.heads"] == 0,
            f"config.model.multipliers has {multiplier:g}, which makes {channels:g} channels of "
            f"config.model.width={given['model.width']}: config.model.groups={given['model.groups']} and "
            f"config.model.heads={given['model.heads']} must divide them",
        )

    _check_family(given)


def _check_family(given: Given) -> None:
    """What the network itself demands, such as the groups of norms that see a level and its skip."""
    from vdm_jax.networks import families  # imports JAX, which the other checks do without

    names = ("width", "depth", "multipliers", "attention_at", "heads", "head_channels", "groups")
    try:
        made = families.settings(given["model.family"], **{name: given[f"model.{name}"] for name in names})
        families.check(made, given["data.shape"])
    except ValueError as error:
        raise UserError(f"config.model.family={given['model.family']!r}: {error}") from error
