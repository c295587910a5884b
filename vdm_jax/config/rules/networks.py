"""Rules for the fields of networks."""

from __future__ import annotations

from vdm_jax.errors import UserError
from vdm_jax.fields import Given, demand


def check_width(given: Given) -> None:
    """Check that the width is even, as the sinusoidal embedding needs."""
    width = given["model.width"]
    demand(width % 2 == 0, f"config.model.width={width} must be even; try {width + 1}")


def check_norms(given: Given) -> None:
    """Check that the groups of the group norms divide the width and have more than one channel."""
    check_width(given)
    width, groups = given["model.width"], given["model.groups"]
    demand(
        width % groups == 0,
        f"config.model.groups={groups} must divide config.model.width={width}; "
        f"try config.model.groups={max(g for g in range(1, min(width, groups) + 1) if width % g == 0)}",
    )
    demand(
        groups < width,
        f"config.model.groups={groups} must be less than config.model.width={width}: normalizing a single channel "
        f"removes the time embedding; try config.model.groups={width // 2}",
    )


def check_residual(given: Given) -> None:
    """Check that a network with the residual of pixels predicts eps."""
    demand(
        given["model.prediction"] == "eps",
        "config.model.residual='pixel' adds an estimate of eps to that of the U-Net; "
        "set config.model.prediction='eps' and config.model.network='unet'",
    )


def check_shape(given: Given) -> None:
    """Check that the network takes records of data.shape and that the data have more than one value."""
    network, shape = given["model.network"], tuple(given["data.shape"])
    demand(
        len(shape) == (1 if network == "mlp" else 3),
        f"config.data.shape={shape} does not fit config.model.network={network!r}: "
        "'unet', 'multiscale' and 'refinenet' take (height, width, channels), 'mlp' (dimensions,)",
    )
    demand(
        given["data.vocabulary"] != 1,
        "config.data.vocabulary=1 has one value and nothing to learn; 0 is for continuous data",
    )


def check_variance(given: Given) -> None:
    """Check that a learned variance has a network with a variance head."""
    network = given["model.network"]
    demand(
        network == "multiscale",
        f"config.model.variance='learned' needs a network with a variance head, which {network!r} lacks; "
        "set config.model.network='multiscale'",
    )


def check_refinenet(given: Given) -> None:
    """Check that NCSN's network is used as in NCSN."""
    demand(
        given["method"] in ("sde", "dequantiser")
        and given["schedule.kind"] == "ve_sde"
        and given.get("model.told") == "index",
        "config.model.network='refinenet' is NCSN's, whose time input is the index of a level; "
        "set config.method='sde', config.schedule.kind='ve_sde' and config.model.told='index'",
    )
    height, width, _ = given["data.shape"]
    demand(
        height % 2 == 0 and width % 2 == 0,
        f"config.data.shape={tuple(given['data.shape'])} cannot be halved, as config.model.network='refinenet' does",
    )
    demand(
        given["model.prediction"] == "eps",
        f"config.model.prediction={given['model.prediction']!r}: NCSN's network predicts a score; set it to 'eps'",
    )


def check_multiscale(given: Given) -> None:
    """Check that the resolutions of the multiscale U-Net fit the images, the groups, and the heads."""
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
    """Run the network's own checks, such as that of the groups of norms over concatenated skip connections."""
    from vdm_jax.networks import families  # imports JAX, which the other checks do not need

    names = ("width", "depth", "multipliers", "attention_at", "heads", "head_channels", "groups")
    try:
        made = families.settings(given["model.family"], **{name: given[f"model.{name}"] for name in names})
        families.check(made, given["data.shape"])
    except ValueError as error:
        raise UserError(f"config.model.family={given['model.family']!r}: {error}") from error
