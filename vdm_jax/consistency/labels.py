"""Labels and the guidance that they make possible."""

from __future__ import annotations

from vdm_jax.consistency.demand import Given, demand


def check_classes(given: Given) -> None:
    classes, null, network = given["model.num_classes"], given["model.null_class"], given["model.network"]
    demand(
        not null or classes > 0,
        "config.model.null_class=True stands beside the labels, of which config.model.num_classes=0 has none; set both",
    )
    demand(
        null == (given["training.label_dropout"] > 0) or (null and given["method"] == "dequantiser"),
        f"config.training.label_dropout={given['training.label_dropout']:g} and config.model.null_class={null} "
        "go together: dropped labels become the null class, which nothing else trains; set both, or 0.0 and False",
    )
    demand(
        classes == 0 or network == "multiscale" or not given["data.augment"],
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


def check_guidance(given: Given) -> None:
    """Labels of samples, guidance, and how x̂ is clipped."""
    classes, null = given["model.num_classes"], given["model.null_class"]
    label, highest = given["sampling.label"], classes if null else classes - 1
    demand(
        label <= highest or (classes == 0 and bool(given["sampling.classifier"])),
        f"config.sampling.label={label} is none of the labels of a model with config.model.num_classes={classes}"
        + (
            f"; they are 0 to {classes - 1}" + (f", and {classes} for the null class" if null else "")
            if classes
            else ""
        ),
    )
    demand(
        null or not any(given["sampling.guidance"]),
        f"config.sampling.guidance={tuple(given['sampling.guidance'])} needs a model that was also trained without "
        "labels (config.model.null_class), which this one was not; set it to (0.0,)",
    )
    demand(bool(given["sampling.guidance"]), "config.sampling.guidance=() has no w; (0.0,) is no guidance")
    demand(
        not given["sampling.classifier_config"] or bool(given["sampling.classifier"]),
        f"config.sampling.classifier_config={given['sampling.classifier_config']!r} is that of "
        "config.sampling.classifier, which is missing; set both",
    )
    ends = tuple(given["sampling.guidance_interval"])
    demand(
        len(ends) == 2 and ends[0] < ends[1],
        f"config.sampling.guidance_interval={ends} must be two gammas, the lower one first",
    )
    demand(
        not given["sampling.percentile"] or given["sampling.clip"],
        f"config.sampling.percentile={given['sampling.percentile']:g} says how config.sampling.clip=True clips; "
        "set that too",
    )
    demand(
        not given["sampling.variance_mix"]
        or (
            given["method"] in ("vdm", "ddpm")
            and given["sampling.sampler"] == "ancestral"
            and given["model.variance"] == "posterior"
        ),
        f"config.sampling.variance_mix={given['sampling.variance_mix']:g} is for config.method='vdm' or 'ddpm' with "
        "config.sampling.sampler='ancestral' and config.model.variance='posterior'",
    )
