"""Rules for labels and augmentations."""

from __future__ import annotations

from vdm_jax.fields import Given, demand


def check_classes(given: Given) -> None:
    """Check that the network can be conditioned on labels and on the augmentation bit at once."""
    network = given["model.network"]
    demand(
        network == "multiscale" or not given["data.augment"],
        f"config.data.augment={tuple(given['data.augment'])} replaces the label in the conditioning of "
        f"config.model.network={network!r}; set config.data.augment=() or config.model.num_classes=0",
    )


def check_crops(given: Given) -> None:
    """Check that only classifiers and CLIP train on crops: a generative model would learn to generate crops."""
    augment, (height, *rest) = tuple(given["data.augment"]), given["data.shape"]
    demand(
        "crop" not in augment or given["method"] in ("classifier", "clip"),
        f"config.data.augment={augment} has 'crop', which is for config.method='classifier' or 'clip': a generative "
        "model would learn to generate crops; leave it out",
    )
    demand(
        "crop" not in augment or (given["data.vocabulary"] > 0 and rest[:1] == [height]),
        f"config.data.augment={augment} has 'crop', which needs square images of discrete values, not "
        f"config.data.shape={given['data.shape']} with config.data.vocabulary={given['data.vocabulary']}; leave it out",
    )
