"""Config fields that many methods share: data, training, sampling, and evaluation."""

from __future__ import annotations

from vdm_jax.fields import ANY_TIME, Component, Field

METHODS = ("vdm", "ddpm", "sde", "dequantizer", "flow_matching", "classifier", "ddgan", "clip")
# A packaged config of each method, with the settings of its paper.
PAPERS = {
    "vdm": "configs/cifar10.py",
    "ddpm": "configs/ddpm_cifar10.py",
    "sde": "configs/score_sde_cifar10.py",
    "dequantizer": "configs/scoreflow_cifar10.py:dequantizer",
    "flow_matching": "configs/flow_matching_digits.py",
    "classifier": "configs/adm_imagenet64.py:classifier",
    "ddgan": "configs/ddgan_cifar10.py",
    "clip": "configs/clip_vit_b32.py",
}
# Whose network predicts what data a latent is of; with a classifier, those that know labels.
DENOISERS = ("vdm", "ddpm", "sde", "dequantizer", "flow_matching")
# Those whose network is trained, and may be trained without its conditions.
TRAINED_DENOISERS = tuple(name for name in DENOISERS if name != "dequantizer")
# That draw samples; whose evaluation measures something.
SAMPLED = (*DENOISERS, "ddgan")
MEASURED = (*DENOISERS, "classifier")
# Whose evaluation reads a split example by example.
EVALUATED = (*MEASURED, "clip")

NUM_SAMPLES = Field(
    0,
    "number of samples that --mode=eval draws for Fréchet distance, precision and recall; 0 for none, or 1,000 with "
    "a DDGAN",
    low=0,
    resume=ANY_TIME,
)
_HELD_OUT = ("val", "valid", "validation", "dev", "eval", "holdout", "heldout")
SPLIT = Field(
    "test",
    "split that is evaluated",
    ("test", "tune", "fit", "train"),
    resume=ANY_TIME,
    meant=(_HELD_OUT, "set 'test', or 'tune' for a tenth of the training data that config.data.split='fit' leaves out"),
)

DATA = Component(
    {
        "method": Field(
            "vdm",
            "the paper's family: VDM, DDPM and Improved DDPM, score SDEs, the dequantization of one, rectified flow, "
            "guided diffusion's classifier, DDGAN, CLIP",
            METHODS,
            decisive=True,
            exclusive=True,
        ),
        "data.name": Field("digits", "name of a data set in vdm_jax.data"),
        "data.path": Field("", "path of the data set, if it is read from one", resume=ANY_TIME),
        "data.shape": Field(
            (8, 8, 1), "shape of an example: (height, width, channels) or (dimensions,)", low=1, decisive=True
        ),
        "data.vocabulary": Field(
            17, "number of values that a pixel can have; 0 for continuous data", low=0, high=256, decisive=True
        ),
        "data.resize": Field(
            "",
            "how images of a folder are resized to data.shape: '' if they have that size, 'crop' for a center crop, "
            "'pad' for padding with black, 'area' or 'bicubic' for the complete image in any aspect ratio",
            ("", "crop", "pad", "area", "bicubic"),
        ),
        "data.batch_size": Field(64, "global batch size: images per step over all devices", low=1),
        "data.augment": Field(
            (),
            "augmentations: 'flip', 'rot90', 'channels', and for a classifier 'crop' of images of data.shape or larger",
            ("flip", "rot90", "channels", "crop"),
        ),
        "data.split": Field(
            "train",
            "split for training; 'fit' excludes 'tune'",
            ("train", "fit"),
            meant=((*_HELD_OUT, "test", "tune"), "the split that is evaluated is config.evaluation.split"),
        ),
        "data.threads": Field(
            0, "number of reading threads; 0 for one with arrays and eight with files", low=0, resume=ANY_TIME
        ),
        "data.max_undecodable": Field(
            0.001, "share of records that may be undecodable and are replaced", low=0.0, high=1.0, resume=ANY_TIME
        ),
        "model.width": Field(64, "base number of channels", low=4, decisive=True),
        "model.dtype": Field("float32", "dtype of the computation", ("float32", "bfloat16"), resume=ANY_TIME),
    }
)

TRAINING = Component(
    {
        "training.seed": Field(1, "random seed for parameters, data order, times and noise", low=0, high=2**32 - 1),
        "training.num_steps": Field(1000, "number of training steps", low=1, resume=ANY_TIME),
        "training.log_every": Field(50, "steps between lines of metrics", low=1, resume=ANY_TIME),
        "training.checkpoint_every": Field(1000, "steps between checkpoints", low=1, resume=ANY_TIME),
        "training.keep": Field(3, "number of newest checkpoints that are kept", low=1, resume=ANY_TIME),
        "training.keep_every": Field(
            0, "checkpoints at multiples of this step are kept permanently; 0 for none", low=0, resume=ANY_TIME
        ),
        "training.parallelism": Field(
            "jit", "transformation that runs the step on many devices", ("jit", "pmap"), resume=ANY_TIME
        ),
        "training.fsdp": Field(
            1, "devices that share one copy of parameters and optimizer state", low=1, resume=ANY_TIME
        ),
        "training.accumulate": Field(1, "number of sequential microbatches per step", low=1, resume=ANY_TIME),
        "training.steps_per_call": Field(1, "number of steps per call from the host", low=1, resume=ANY_TIME),
        "training.bad_steps": Field(
            5, "consecutive steps with a loss or gradient that is not finite before on_bad", low=1, resume=ANY_TIME
        ),
        "training.spike": Field(
            0.0, "a loss above this multiple of its running mean triggers on_bad; 0 for none", low=0.0, resume=ANY_TIME
        ),
        "training.on_bad": Field(
            "stop",
            "'stop', or 'rollback' to a checkpoint and continue with other data",
            ("stop", "rollback"),
            resume=ANY_TIME,
        ),
        "training.profile_steps": Field(
            (0, 0), "first and last step of a profiler trace for TensorBoard; (0, 0) for none", low=0, resume=ANY_TIME
        ),
        "evaluation.weights": Field(
            "ema", "weights that are evaluated and sampled from", ("ema", "raw"), resume=ANY_TIME
        ),
    }
)

EVALUATION = Component(
    {
        "training.eval_every": Field(0, "steps between evaluations; 0 for only at the end", low=0, resume=ANY_TIME),
        "training.eval_examples": Field(
            0, "number of examples of these evaluations; 0 for evaluation.examples", low=0, resume=ANY_TIME
        ),
        "evaluation.split": SPLIT,
        "evaluation.examples": Field(
            0, "number of examples from the start of the split; 0 for all", low=0, resume=ANY_TIME
        ),
        "evaluation.batch_size": Field(64, "examples per batch", low=1, resume=ANY_TIME),
        "evaluation.seed": Field(0, "random seed for times and noise", low=0, high=2**32 - 1, resume=ANY_TIME),
    },
    {"method": EVALUATED},
)

PASSES = Component(
    {"evaluation.passes": Field(4, "number of passes with new times and noise", low=1, resume=ANY_TIME)},
    {"method": MEASURED},
)

SAMPLING = Component(
    {
        "training.sample_every": Field(0, "steps between sample grids; 0 for only at the end", low=0, resume=ANY_TIME),
        "sampling.num_steps": Field(
            250,
            "number of sampling steps; with 'adaptive' the number of points of its path in pictures",
            low=1,
            resume=ANY_TIME,
        ),
        "sampling.num_images": Field(64, "number of images", low=1, resume=ANY_TIME),
        "sampling.batch_size": Field(64, "images per batch", low=1, resume=ANY_TIME),
        "sampling.seed": Field(0, "random seed for sampling noise", low=0, high=2**32 - 1, resume=ANY_TIME),
    },
    {"method": SAMPLED},
)

SAMPLE_SETS = Component({"evaluation.num_samples": NUM_SAMPLES}, {"method": DENOISERS})

PERCENTILE = Component(
    {
        "sampling.percentile": Field(
            0.0,
            "percentile of |x| that dynamic thresholding scales to 1 if it is larger; 0 to clip at 1",
            low=0.0,
            high=100.0,
            resume=ANY_TIME,
        )
    },
    {"sampling.clip": (True,)},
)


def network(*choices: str) -> Field:
    """Return the field `model.network` with the choices of a method."""
    text = "network: VDM's U-Net, a multilayer perceptron, a U-Net of several resolutions, or NCSN's RefineNet"
    return Field(choices[0], text, choices, decisive=True)


def prediction(*choices: str) -> Field:
    """Return the field `model.prediction` with the choices of a method."""
    text = "target that the network predicts; 'previous' is z_s, for a DDGAN"
    return Field("eps", text, choices, decisive=True, exclusive=True)


def schedule(*choices: str) -> Field:
    """Return the field `schedule.kind` with the choices of a method."""
    default = "learned_scalar" if "learned_scalar" in choices else choices[0]
    return Field(
        default, "noise schedule: gamma(t), the table of a DDPM, or an SDE", choices, decisive=True, exclusive=True
    )


def times(*choices: str) -> Field:
    """Return the field `training.times` with the choices of a method."""
    return Field("stratified", "distribution of t in training; 'importance' is for the VLB", choices)


def weighting(*choices: str) -> Field:
    """Return the field `training.weighting` with the choices of a method."""
    return Field("vlb", "weighting of the diffusion loss", choices, exclusive=True)


def sampler(*choices: str) -> Field:
    """Return the field `sampling.sampler` with the choices of a method."""
    text = "reverse step; 'adaptive' solves the flow with as many steps as each image needs at sampling.tolerance"
    return Field("ancestral", text, choices, resume=ANY_TIME)


def estimator(*choices: str) -> Field:
    """Return the field `evaluation.estimator` with the choices of a method."""
    return Field("vlb", "likelihood estimator", choices, resume=ANY_TIME)


# Fields that several methods declare.
CLIP = Field(False, "clip the predicted x to [-1, 1]", resume=ANY_TIME)
LEVELS = Field(0, "number of levels drawn for each example and pass; 0 for all T", low=0, resume=ANY_TIME)
TOLERANCE = Field(
    1e-5, "relative and absolute tolerance of a step of the ODE solver", low=2e-6, high=0.1, resume=ANY_TIME
)
VARIANCE_MIX = Field(
    0.0,
    "w in the log variance of an ancestral step, w log beta + (1 - w) log beta-tilde, if it is not learned",
    low=0.0,
    high=1.0,
    resume=ANY_TIME,
)
DATA_VARIANCE = Field(0.25, "E[x^2] of the data, for residual='pixel'", low=1e-6, high=1e6, decisive=True)
NUM_TIMESTEPS = Field(0, "T of the trained bound; 0 for continuous time", low=0, high=2**24)
QKV_ORDER = Field(
    "unknown",
    "order of q, k and v in guided-diffusion's weights, which can't be inferred from the tensors",
    ("unknown", "legacy", "new"),
    resume=ANY_TIME,
)
DROPOUT = Field(0.0, "dropout rate", low=0.0, high=0.99)
GROUPS = Field(32, "number of groups of the group norms; must divide the width", low=1, decisive=True)
REMAT = Field(
    "none",
    "what the backward pass recomputes: nothing, complete blocks, or blocks without their convolutions",
    ("none", "full", "convs"),
    resume=ANY_TIME,
)
UNROLL = Field(1, "number of blocks per loop iteration", low=1, resume=ANY_TIME)
