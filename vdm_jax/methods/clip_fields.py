"""The config fields of CLIP, and the checks of their values."""

from __future__ import annotations

from vdm_jax import common_fields as common
from vdm_jax.fields import ANY_TIME, SET, Component, Field, Given, demand


def _check(given: Given) -> None:
    shape = tuple(given["data.shape"])
    demand(
        len(shape) == 3 and shape[0] == shape[1] and given["data.vocabulary"] > 0,
        f"config.data.shape={shape} with config.data.vocabulary={given['data.vocabulary']}: the image tower of a CLIP "
        "takes square images of discrete values; resize those of a folder by config.data.resize='crop'",
    )
    demand(
        given["model.text_width"] % given["model.text_heads"] == 0,
        f"config.model.text_heads={given['model.text_heads']} must divide config.model.text_width="
        f"{given['model.text_width']}",
    )
    demand(
        given["data.batch_size"] > 1,
        "config.data.batch_size=1 has no negatives: a caption is compared with the other captions of the batch; use 2 "
        "or more",
    )


def _check_vit(given: Given) -> None:
    side, patch = given["data.shape"][0], given["model.patch"]
    demand(
        side % patch == 0,
        f"config.model.patch={patch} must divide the {side} pixels of config.data.shape={tuple(given['data.shape'])}",
    )
    demand(
        given["model.width"] % given["model.heads"] == 0,
        f"config.model.heads={given['model.heads']} must divide config.model.width={given['model.width']}",
    )
    demand(
        given["model.stem"] == "patches" or patch & (patch - 1) == 0,
        f"config.model.stem='convolutions' halves the image, so config.model.patch={patch} must be a power of 2",
    )


def _check_resnet(given: Given) -> None:
    side = given["data.shape"][0]
    demand(side % 32 == 0, f"a ResNet halves an image five times, so its side of {side} pixels must be divisible by 32")
    demand(
        len(given["model.depths"]) == 4,
        f"config.model.depths={tuple(given['model.depths'])} must be the numbers of blocks of four stages",
    )


COMPONENTS = (
    Component(
        {
            "model.network": Field(
                "vit",
                "image tower: a vision transformer, or a ResNet with attention pooling",
                ("vit", "resnet"),
                decisive=True,
            ),
            "model.embedding": Field(512, "number of dimensions of the common space", low=1, decisive=True),
            "model.text_width": Field(512, "width of the text tower", low=1, decisive=True),
            "model.text_depth": Field(
                12, "blocks of the text tower; 0 for the mean of the embeddings of the tokens", low=0, decisive=True
            ),
            "model.text_heads": Field(8, "attention heads of the text tower", low=1, decisive=True),
            "model.gelu": Field(
                "quick",
                "activation of the transformers: x sigmoid(1.702 x), or x Phi(x)",
                ("quick", "erf"),
                decisive=True,
            ),
            "model.key_bias": Field(True, "whether the keys of attention have a bias", decisive=True),
            "model.remat": Field(
                "none",
                "what the backward pass recomputes: nothing, or complete blocks",
                ("none", "full"),
                resume=ANY_TIME,
            ),
            "model.unroll": common.UNROLL,
            "training.mask_same_captions": Field(
                False, "exclude captions that mean the same as an example's own from its negatives"
            ),
            "evaluation.task": Field(
                "retrieval",
                "what --mode=eval measures: retrieval between images and captions, or zero-shot classification",
                ("retrieval", "zero_shot"),
                resume=ANY_TIME,
            ),
        },
        {"method": ("clip",)},
        _check,
    ),
    Component(
        {
            "model.depth": Field(12, "blocks of the image tower", low=1, decisive=True),
            "model.heads": Field(12, "attention heads of the image tower", low=1, decisive=True),
            "model.patch": Field(32, "side of a patch in pixels", low=1, decisive=True),
            "model.stem": Field(
                "patches",
                "how patches become vectors: a linear map, or convolutions of stride 2",
                ("patches", "convolutions"),
                decisive=True,
            ),
            "model.noised": Field(
                False,
                "whether the image tower sees noised images and their levels, to guide a diffusion",
                decisive=True,
            ),
        },
        {"method": ("clip",), "model.network": ("vit",)},
        _check_vit,
    ),
    Component(
        {"model.depths": Field((3, 4, 6, 3), "blocks of the four stages", low=1, decisive=True)},
        {"method": ("clip",), "model.network": ("resnet",)},
        _check_resnet,
    ),
    Component(
        {
            "schedule.kind": common.schedule("ddpm_linear", "ddpm_cosine", "constant_sigma"),
            "training.times": common.times("stratified", "independent"),
            "evaluation.levels": Field(
                10, "number of noise levels at which accuracy is measured", low=1, resume=ANY_TIME
            ),
        },
        {"method": ("clip",), "model.noised": SET},
    ),
    Component(
        {
            "evaluation.candidates": Field(
                0,
                "number of candidates with distinct captions in retrieval; 0 for the complete split",
                low=0,
                resume=ANY_TIME,
            ),
            "evaluation.draws": Field(
                8, "number of draws of candidates that recall is averaged over", low=1, resume=ANY_TIME
            ),
        },
        {"evaluation.task": ("retrieval",)},
    ),
    Component(
        {
            "evaluation.prompts": Field(
                "", "JSON file with the 'classes' of the labels and 'templates' with {}", resume=ANY_TIME
            )
        },
        {"evaluation.task": ("zero_shot",)},
    ),
)
