"""Config fields of conditions and guidance."""

from __future__ import annotations

from vdm_jax.common_fields import DENOISERS, MEASURED, TRAINED_DENOISERS
from vdm_jax.fields import ANY_TIME, EVERYWHERE, SET, Component, Field, Given, demand

_LABEL = Field(
    -1, "class of all samples, num_classes for the null class; -1 to cycle through all", low=-1, resume=ANY_TIME
)


def _check_label(given: Given) -> None:
    classes, null = given["model.num_classes"], given.get("model.null_class", False)
    label, highest = given["sampling.label"], classes if null else classes - 1
    demand(
        label <= highest,
        f"config.sampling.label={label} is not a label of a model with config.model.num_classes={classes}; "
        f"they are 0 to {classes - 1}" + (f", and {classes} for the null class" if null else ""),
    )


def _check_dropout(given: Given) -> None:
    demand(
        given["training.label_dropout"] > 0,
        f"config.training.label_dropout={given['training.label_dropout']:g} and config.model.null_class=True "
        "go together: dropped labels become the null class, which nothing else trains; set label_dropout above 0, or "
        "null_class to False",
    )


def _check_guidance(given: Given) -> None:
    demand(bool(given["sampling.guidance"]), "config.sampling.guidance=() has no w; set (0.0,) for no guidance")
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
        f"config.model.low_resolution={side} is not the side of a low-resolution image: it must be a divisor of "
        f"{height} below {height}, for images of {height} × {height} pixels (config.data.shape); try {nearest}",
    )


TEXT = ("clip",)  # methods with a text condition

COMPONENTS = (
    Component(
        {
            "data.tokenizer": Field(
                "bpe",
                "tokenizer of captions: CLIP's, GPT-2's as GLIDE uses it, or a byte-pair encoding trained on the "
                "captions of the run",
                ("bpe", "clip", "gpt2"),
                decisive=True,
            ),
            "data.tokenizer_path": Field(
                "",
                "path of the tokenizer's vocabulary; '' for the tokenizer.json of the working directory, for 'bpe'",
                resume=ANY_TIME,
            ),
            "model.context": Field(
                77, "number of tokens of a caption; longer ones are truncated", low=3, decisive=True
            ),
            "model.vocabulary": Field(49_408, "number of rows of the table of tokens", low=258, decisive=True),
        },
        {"method": TEXT},
    ),
    Component(
        {
            "model.num_classes": Field(
                0, "number of classes that the network is conditioned on; 0 for none", low=0, decisive=True
            )
        },
        {"method": MEASURED, "model.network": ("unet", "mlp", "multiscale")},
    ),
    Component(
        {
            "model.null_class": Field(
                False, "one more class for missing labels, for classifier-free guidance", decisive=True
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
                "weights w of classifier-free guidance, (1 + w) eps(c) - w eps(null), each of which is sampled; a "
                "scale s in other papers is w = s - 1",
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
                0, "side in pixels of an upsampler's low-resolution input; 0 for none", low=0, decisive=True
            )
        },
        {"method": ("ddpm",), "model.network": ("multiscale",)},
    ),
    Component(
        {
            "sampling.low_resolution": Field(
                "",
                "samples/STEP.npz of a smaller model, whose samples and labels are the upsampler's input",
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
            # This field does not depend on the path: a config sets the scale of its paper before the path is known.
            "sampling.classifier_scale": Field(
                1.0, "guidance scale s of s grad log p(c|z) of the classifier", low=0.0, high=1000.0, resume=ANY_TIME
            ),
        },
        {"method": ("ddpm",)},
    ),
    Component(
        {
            "sampling.clip_model": Field(
                "", "a noised CLIP that guides samples: its working directory or weights", resume=ANY_TIME
            ),
            "sampling.clip_scale": Field(
                1.0,
                "guidance scale s of s grad exp(log_scale) cos(image, caption) of the CLIP",
                low=0.0,
                high=1000.0,
                resume=ANY_TIME,
            ),
        },
        {"method": TRAINED_DENOISERS},
    ),
    Component(
        {
            "sampling.caption": Field(
                "", "caption of the samples; several, separated by '|', are taken in turn", resume=ANY_TIME
            ),
            "sampling.clip_config": Field(
                "", "config of the CLIP, for published weights; '' for that of its directory", resume=ANY_TIME
            ),
        },
        {"sampling.clip_model": SET},
    ),
    Component(
        {
            "sampling.label": _LABEL,
            "sampling.classifier_config": Field(
                "", "config of the classifier, for published weights; '' for that of its directory", resume=ANY_TIME
            ),
        },
        {"sampling.classifier": SET},
    ),
)
