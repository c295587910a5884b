"""Fields that configs of many methods have, whatever their parts: data, training, drawing samples, evaluations."""

from __future__ import annotations

from vdm_jax.fields import ANY_TIME, Component, Field

METHODS = ("vdm", "ddpm", "sde", "dequantizer", "flow_matching", "classifier", "ddgan")
# Whose network predicts what data a latent is of; with a classifier, those that know labels.
DENOISERS = ("vdm", "ddpm", "sde", "dequantizer", "flow_matching")
# Those whose network is trained, and may be trained without its conditions.
TRAINED_DENOISERS = tuple(name for name in DENOISERS if name != "dequantizer")
# That draw samples; whose evaluation measures something.
SAMPLED = (*DENOISERS, "ddgan")
MEASURED = (*DENOISERS, "classifier")

NUM_SAMPLES = Field(
    0,
    "samples that --mode=eval draws for their Fréchet distance, precision and recall; 0 for none, or 1,000 of a DDGAN",
    low=0,
    resume=ANY_TIME,
)
SPLIT = Field("test", "what to evaluate on", ("test", "tune", "fit", "train"), resume=ANY_TIME)

DATA = Component(
    {
        "method": Field(
            "vdm",
            "the paper's family: VDM, DDPM and Improved DDPM, score SDEs, the dequantization of one, rectified flow, "
            "guided diffusion's classifier, DDGAN",
            METHODS,
            decisive=True,
            exclusive=True,
        ),
        "data.name": Field("digits", "a data set of vdm_jax.data"),
        "data.path": Field("", "where it lies, for those read from a path", resume=ANY_TIME),
        "data.shape": Field((8, 8, 1), "one example: (height, width, channels) or (dimensions,)", low=1, decisive=True),
        "data.vocabulary": Field(
            17, "number of levels of a value; 0 for continuous data", low=0, high=256, decisive=True
        ),
        "data.resize": Field(
            "",
            "how images of a folder get that size: '' if they have it, 'crop' for the center, 'pad' for all of it on "
            "black, 'area' or 'bicubic' for all of it whatever its proportions",
            ("", "crop", "pad", "area", "bicubic"),
        ),
        "data.batch_size": Field(64, "images per step over all devices", low=1),
        "data.augment": Field(
            (),
            "of 'flip', 'rot90', 'channels', and for a classifier 'crop': of its images or of larger ones",
            ("flip", "rot90", "channels", "crop"),
        ),
        "data.split": Field("train", "what to train on; 'fit' leaves out 'tune'", ("train", "fit")),
        "data.threads": Field(0, "threads that read; 0 for one on arrays, eight on files", low=0, resume=ANY_TIME),
        "data.max_undecodable": Field(
            0.001, "share of records that may be replaced for being unreadable", low=0.0, high=1.0, resume=ANY_TIME
        ),
        "model.width": Field(64, "channels n", low=4, decisive=True),
        "model.dtype": Field("float32", "dtype of the computation", ("float32", "bfloat16"), resume=ANY_TIME),
    }
)

TRAINING = Component(
    {
        "training.seed": Field(1, "of parameters, data order, times and noise", low=0, high=2**32 - 1),
        "training.num_steps": Field(1000, "steps", low=1, resume=ANY_TIME),
        "training.log_every": Field(50, "steps between lines of metrics", low=1, resume=ANY_TIME),
        "training.checkpoint_every": Field(1000, "steps between checkpoints", low=1, resume=ANY_TIME),
        "training.keep": Field(3, "newest checkpoints kept", low=1, resume=ANY_TIME),
        "training.keep_every": Field(
            0, "checkpoints of these steps are kept for good; 0 for none", low=0, resume=ANY_TIME
        ),
        "training.parallelism": Field("jit", "what runs the step on many devices", ("jit", "pmap"), resume=ANY_TIME),
        "training.fsdp": Field(
            1, "devices that share one copy of parameters and optimizer state", low=1, resume=ANY_TIME
        ),
        "training.accumulate": Field(1, "microbatches a step is made of, one after the other", low=1, resume=ANY_TIME),
        "training.steps_per_call": Field(1, "steps the host starts at once", low=1, resume=ANY_TIME),
        "training.bad_steps": Field(
            5, "steps in a row with a loss or gradient that is not finite before on_bad", low=1, resume=ANY_TIME
        ),
        "training.spike": Field(
            0.0, "a loss of so many times its running mean is bad at once; 0 for none", low=0.0, resume=ANY_TIME
        ),
        "training.on_bad": Field(
            "stop", "stop, or go back to a checkpoint and on with other data", ("stop", "rollback"), resume=ANY_TIME
        ),
        "training.profile_steps": Field(
            (0, 0), "the first and last step of a trace for TensorBoard; 0, 0 for none", low=0, resume=ANY_TIME
        ),
        "evaluation.weights": Field("ema", "which weights", ("ema", "raw"), resume=ANY_TIME),
    }
)

EVALUATION = Component(
    {
        "training.eval_every": Field(0, "steps between evaluations; 0 only at the end", low=0, resume=ANY_TIME),
        "training.eval_examples": Field(
            0, "examples of those evaluations; 0 for evaluation.examples", low=0, resume=ANY_TIME
        ),
        "evaluation.split": SPLIT,
        "evaluation.examples": Field(0, "the first so many of the split; 0 for all", low=0, resume=ANY_TIME),
        "evaluation.passes": Field(4, "passes with new times and noise", low=1, resume=ANY_TIME),
        "evaluation.batch_size": Field(64, "examples at a time", low=1, resume=ANY_TIME),
        "evaluation.seed": Field(0, "of times and noise", low=0, high=2**32 - 1, resume=ANY_TIME),
    },
    {"method": MEASURED},
)

SAMPLING = Component(
    {
        "training.sample_every": Field(0, "steps between sample grids; 0 only at the end", low=0, resume=ANY_TIME),
        "sampling.num_steps": Field(
            250, "steps of the sampler; of 'adaptive' the points of its path for pictures", low=1, resume=ANY_TIME
        ),
        "sampling.num_images": Field(64, "images", low=1, resume=ANY_TIME),
        "sampling.batch_size": Field(64, "images at a time", low=1, resume=ANY_TIME),
        "sampling.seed": Field(0, "of the noise", low=0, high=2**32 - 1, resume=ANY_TIME),
    },
    {"method": SAMPLED},
)

SAMPLE_SETS = Component({"evaluation.num_samples": NUM_SAMPLES}, {"method": DENOISERS})

PERCENTILE = Component(
    {
        "sampling.percentile": Field(
            0.0,
            "of |x| that clip scales to 1 where it is more (dynamic thresholding); 0 to clip at 1",
            low=0.0,
            high=100.0,
            resume=ANY_TIME,
        )
    },
    {"sampling.clip": (True,)},
)


def network(*choices: str) -> Field:
    """`model.network` of a method that takes these."""
    text = "the score network: VDM's, a multilayer perceptron, one that resamples, or NCSN's"
    return Field(choices[0], text, choices, decisive=True)


def prediction(*choices: str) -> Field:
    """`model.prediction` of a method that takes these."""
    text = "what the network predicts; 'previous' is z_s itself, of a DDGAN"
    return Field("eps", text, choices, decisive=True, exclusive=True)


def schedule(*choices: str) -> Field:
    """`schedule.kind` of a method that takes these."""
    default = "learned_scalar" if "learned_scalar" in choices else choices[0]
    return Field(default, "gamma(t); the table of a DDPM, or an SDE", choices, decisive=True, exclusive=True)


def times(*choices: str) -> Field:
    """`training.times` of a method that takes these."""
    return Field("stratified", "how t is drawn; by importance for the VLB", choices)


def weighting(*choices: str) -> Field:
    """`training.weighting` of a method that takes these."""
    return Field("vlb", "weights of the diffusion loss", choices, exclusive=True)


def sampler(*choices: str) -> Field:
    """`sampling.sampler` of a method that takes these."""
    text = "the reverse step; 'adaptive' is the flow in as many steps as each image takes at sampling.tolerance"
    return Field("ancestral", text, choices, resume=ANY_TIME)


def estimator(*choices: str) -> Field:
    """`evaluation.estimator` of a method that takes these."""
    return Field("vlb", "of the likelihood", choices, resume=ANY_TIME)


# Fields that several methods declare alike.
CLIP = Field(False, "clip the predicted x to [-1, 1]", resume=ANY_TIME)
LEVELS = Field(0, "levels of a table drawn for each example and pass; 0 for all T", low=0, resume=ANY_TIME)
TOLERANCE = Field(1e-5, "of a step of the ODE solver, relative and absolute", low=2e-6, high=0.1, resume=ANY_TIME)
VARIANCE_MIX = Field(
    0.0,
    "w of an ancestral step's log variance, w log beta + (1 - w) log beta-tilde, one that is not learned",
    low=0.0,
    high=1.0,
    resume=ANY_TIME,
)
DATA_VARIANCE = Field(0.25, "E[x^2] of the data, for residual='pixel'", low=1e-6, high=1e6, decisive=True)
NUM_TIMESTEPS = Field(0, "T of the trained bound; 0 for continuous time", low=0, high=2**24)
QKV_ORDER = Field(
    "unknown",
    "the order of q, k and v in guided-diffusion's weights, which no tensor shows",
    ("unknown", "legacy", "new"),
    resume=ANY_TIME,
)
DROPOUT = Field(0.0, "dropout rate", low=0.0, high=0.99)
GROUPS = Field(32, "groups of the group norms; divides the width", low=1, decisive=True)
REMAT = Field(
    "none",
    "what the backward pass recomputes: nothing, all of a block, or all of it but the convolutions",
    ("none", "full", "convs"),
    resume=ANY_TIME,
)
UNROLL = Field(1, "blocks in one loop body", low=1, resume=ANY_TIME)
