"""Fields of what a model is conditioned on, and of guidance by it."""

from __future__ import annotations

from vdm_jax.common_fields import DENOISERS, MEASURED, TRAINED_DENOISERS
from vdm_jax.fields import ANY_TIME, EVERYWHERE, SET, Component, Field, Given, demand

_LABEL = Field(
    -1, "the class of all samples, num_classes for the null class; -1 for each in turn", low=-1, resume=ANY_TIME
)


def _check_label(given: Given) -> None:
    classes, null = given["model.num_classes"], given.get("model.null_class", False)
    label, highest = given["sampling.label"], classes if null else classes - 1
    demand(
        label <= highest,
        f"config.sampling.label={label} is none of the labels of a model with config.model.num_classes={classes}; "
        f"they are 0 to {classes - 1}" + (f", and {classes} for the null class" if null else ""),
    )


def _check_dropout(given: Given) -> None:
    demand(
        given["training.label_dropout"] > 0,
        f"config.training.label_dropout={given['training.label_dropout']:g} and config.model.null_class=True "
        "go together: dropped labels become the null class, which nothing else trains; set both, or 0.0 and False",
    )


def _check_guidance(given: Given) -> None:
    demand(bool(given["sampling.guidance"]), "config.sampling.guidance=() has no w; (0.0,) is no guidance")
    ends = tuple(given["sampling.guidance_interval"])
    demand(
        len(ends) == 2 and ends[0] < ends[1],
        f"config.sampling.guidance_interval={ends} must be two gammas, the lower one first",
    )


def _check_low_resolution(given: Given) -> None:
    side, shape = given["model.low_resolution"], given["data.shape"]
    height = shape[0] if shape else 0
    smaller = [size for size in range(1, height) if height % size == 0] or [0]
    nearest = min(smaller, key=lambda size: abs(size - side))
    demand(
        side in smaller,
        f"config.model.low_resolution={side} is not the side of an image that whole blocks of "
        f"{height} × {height} pixels make (config.data.shape); try {nearest}",
    )


COMPONENTS = (
    Component(
        {
            "model.num_classes": Field(
                0, "labels 0 ... num_classes - 1 that the network is told; 0 for none", low=0, decisive=True
            )
        },
        {"method": MEASURED, "model.network": ("unet", "mlp", "multiscale")},
    ),
    Component(
        {
            "model.null_class": Field(
                False, "one more class, told where there is none, for classifier-free guidance", decisive=True
            )
        },
        {"method": DENOISERS, "model.num_classes": SET},
    ),
    Component({"sampling.label": _LABEL}, {"method": DENOISERS, "model.num_classes": SET}, _check_label),
    Component(
        {
            "training.label_dropout": Field(
                0.0, "p_uncond, the share of labels replaced by the null class", low=0.0, high=0.99
            )
        },
        {"method": TRAINED_DENOISERS, "model.null_class": SET},
        _check_dropout,
    ),
    Component(
        {
            "sampling.guidance": Field(
                (0.0,),
                "w of classifier-free guidance, (1 + w) eps(c) - w eps(null); a scale s of other papers is w = s - 1; "
                "of several each is sampled",
                low=-1.0,
                high=100.0,
                resume=ANY_TIME,
            ),
            "sampling.guidance_interval": Field(
                EVERYWHERE, "the gammas between which guidance acts", low=-100.0, high=100.0, resume=ANY_TIME
            ),
        },
        {"method": DENOISERS, "model.null_class": SET},
        _check_guidance,
    ),
    Component(
        {
            "model.low_resolution": Field(
                0, "side in pixels of the image that an upsampler is given; 0 for none", low=0, decisive=True
            )
        },
        {"method": ("ddpm",), "model.network": ("multiscale",)},
    ),
    Component(
        {
            "sampling.low_resolution": Field(
                "",
                "samples/STEP.npz of the model whose samples an upsampler enlarges, with their labels",
                resume=ANY_TIME,
            )
        },
        {"model.low_resolution": SET},
        _check_low_resolution,
    ),
    Component(
        {
            "sampling.classifier": Field(
                "",
                "a noisy classifier that guides a DDPM's samples: its working directory or weights",
                resume=ANY_TIME,
            ),
            # Held beside the path, since a config says the scale of its paper before a path is known.
            "sampling.classifier_scale": Field(
                1.0, "s of s grad log p(c|z), on top of what the model gives", low=0.0, high=1000.0, resume=ANY_TIME
            ),
        },
        {"method": ("ddpm",)},
    ),
    Component(
        {
            "sampling.label": _LABEL,
            "sampling.classifier_config": Field(
                "", "its config, for published weights; '' for the directory's", resume=ANY_TIME
            ),
        },
        {"sampling.classifier": SET},
    ),
)
