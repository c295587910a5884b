"""Labels and augmentations."""

from __future__ import annotations

from vdm_jax.fields import Given, demand


def check_classes(given: Given) -> None:
    network = given["model.network"]
    demand(
        network == "multiscale" or not given["data.augment"],
        f"config.data.augment={tuple(given['data.augment'])} is told to config.model.network={network!r} in the place "
        "of the label; set config.data.augment=() or config.model.num_classes=0",
    )


def check_crops(given: Given) -> None:
    """Crops are for telling what an image shows: a model of images would draw crops too."""
    augment, (height, *rest) = tuple(given["data.augment"]), given["data.shape"]
    demand(
        "crop" not in augment or given["method"] == "classifier",
        f"config.data.augment={augment} has 'crop', which is for config.method='classifier': a model of images would "
        "learn to draw crops; leave it out",
    )
    demand(
        "crop" not in augment or (given["data.vocabulary"] > 0 and rest[:1] == [height]),
        f"config.data.augment={augment} has 'crop', which takes square images of levels, not "
        f"config.data.shape={given['data.shape']} with config.data.vocabulary={given['data.vocabulary']}; leave it out",
    )
