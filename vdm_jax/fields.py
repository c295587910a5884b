"""Every field a config may have: its default, its legal values, whether it may change on resume."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from vdm_jax.errors import UserError


class Field(NamedTuple):
    """default; what it does; legal values or bounds, of every item of a tuple; whether a resumed
    run may change it."""

    default: Any
    help: str
    choices: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    resume: bool = False


_ANY_TIME = True
# An interval of γ that every schedule lies within.
EVERYWHERE = (-100.0, 100.0)

FIELDS: dict[str, dict[str, Field]] = {
    "": {
        "method": Field(
            "vdm",
            "the paper's family: VDM, DDPM and Improved DDPM, score SDEs, the dequantisation of one, guided "
            "diffusion's classifier, DDGAN",
            ("vdm", "ddpm", "sde", "dequantiser", "classifier", "ddgan"),
        ),
    },
    "data": {
        "name": Field("digits", "a data set of vdm_jax.data"),
        "path": Field("", "where it lies, for those read from a path", resume=_ANY_TIME),
        "shape": Field((8, 8, 1), "one example: (height, width, channels) or (dimensions,)", low=1),
        "resize": Field(
            "",
            "how images of a folder get that size: '' if they have it, 'crop' for the center, 'pad' for all of it on "
            "black, 'area' or 'bicubic' for all of it whatever its proportions",
            ("", "crop", "pad", "area", "bicubic"),
        ),
        "vocabulary": Field(
            17, "number of levels of a value, 256 for images of 8 bits; 0 for continuous data", low=0, high=256
        ),
        "batch_size": Field(64, "images per step over all devices", low=1),
        "augment": Field(
            (),
            "of 'flip', 'rot90', 'channels', and for a classifier 'crop': of its images or of larger ones",
            ("flip", "rot90", "channels", "crop"),
        ),
        "split": Field("train", "what to train on; 'fit' leaves out 'tune'", ("train", "fit")),
        "threads": Field(0, "threads that read; 0 for one on arrays, eight on files", low=0, resume=_ANY_TIME),
        "max_undecodable": Field(
            0.001, "share of records that may be replaced for being unreadable", low=0.0, high=1.0, resume=_ANY_TIME
        ),
    },
    "model": {
        "network": Field(
            "unet",
            "the score network: VDM's, a multilayer perceptron, one that resamples, or NCSN's",
            ("unet", "mlp", "multiscale", "refinenet"),
        ),
        "family": Field(
            "improved",
            "whose multiscale U-Net: DDPM's, Improved DDPM's, guided diffusion's, DDPM++, NCSN++, DDGAN's generator",
            ("ddpm", "improved", "adm", "ddpmpp", "ncsnpp", "ddgan"),
        ),
        "multipliers": Field((1.0, 2.0, 2.0, 2.0), "channels of each resolution over the width", low=0.1, high=64),
        "attention_at": Field((16,), "resolutions, in pixels, whose blocks have attention", low=1),
        "heads": Field(1, "heads of attention", low=1),
        "head_channels": Field(0, "channels of a head, instead of a number of heads; 0 for model.heads", low=0),
        "qkv_order": Field(
            "unknown",
            "the order of q, k and v in guided-diffusion's weights, which no tensor shows",
            ("unknown", "legacy", "new"),
            resume=_ANY_TIME,
        ),
        "resample_blocks": Field(
            True, "family 'adm': residual blocks halve and double, else convolutions of their own"
        ),
        "rescale": Field(False, "family 'adm': sums of residual branches are divided by the root of 2"),
        "scale_shift": Field(
            True, "families 'improved', 'adm': the embedding of t scales and shifts a norm; else it is added before it"
        ),
        "rescale_time": Field(False, "the network is told 1000 l/T, not the level l"),
        "told": Field(
            "time",
            "what the network of a score SDE is told of its level: the time (or log sigma), or its number among "
            "training.num_timesteps, as NCSN and score_sde's discrete checkpoints are",
            ("time", "index"),
        ),
        "variance": Field(
            "posterior",
            "of a reverse step: beta-tilde, beta, or learned between them",
            ("posterior", "beta", "learned"),
        ),
        "width": Field(64, "channels n", low=4),
        "depth": Field(4, "blocks L on each side; of a multiscale network at each resolution", low=1),
        "fourier": Field((7.0, 8.0), "exponents n of the features sin, cos(2^n pi z); () for none", low=0, high=16),
        "fourier_damping": Field(False, "features times exp(-(2^n pi sigma)^2/2), what noise leaves of them"),
        "attention": Field(False, "attention after every block, not only in the middle"),
        "dropout": Field(0.0, "dropout rate", low=0.0, high=0.99),
        "groups": Field(32, "groups of the group norms; divides the width", low=1),
        "prediction": Field(
            "eps", "what the network predicts; 'previous' is z_s itself, of a DDGAN", ("eps", "x", "v", "previous")
        ),
        "latent": Field(100, "numbers w that a generator is told; 0 for none", low=0),
        "latent_width": Field(256, "units of the generator's mapping network", low=1),
        "mapping_depth": Field(3, "layers of the mapping network after its first", low=0),
        "score_model": Field(
            "", "the weights of the score SDE that a dequantizer belongs to: a working directory", resume=_ANY_TIME
        ),
        "couplings": Field(4, "affine couplings of a dequantiser's flow", low=1),
        "coupling_width": Field(32, "channels of a coupling's network", low=1),
        "coupling_depth": Field(2, "residual layers of a coupling's network", low=1),
        "discriminator": Field("small", "of images up to 64 pixels, or larger ones", ("small", "large")),
        "discriminator_width": Field(64, "channels n of the discriminator, which has 2 n to 8 n", low=1),
        "discriminator_time": Field(256, "units of the discriminator's embedding of t", low=4),
        "residual": Field(
            "z", "what the network's output is added to: z or the exact eps of lone pixels", ("z", "pixel")
        ),
        "num_classes": Field(0, "labels 0 ... num_classes - 1 that the network is told; 0 for none", low=0),
        "null_class": Field(False, "one more class, told where there is none, for classifier-free guidance"),
        "low_resolution": Field(0, "side in pixels of the image that an upsampler is given; 0 for none", low=0),
        "data_variance": Field(0.25, "E[x^2] of the data, for residual='pixel'", low=1e-6, high=1e6),
        "cdf": Field("exact", "of the discretised Gaussian; 'tanh' is the originals' approximation", ("exact", "tanh")),
        "initial": Field("original", "how the weights start", ("original", "structured")),
        "dtype": Field("float32", "dtype of the computation", ("float32", "bfloat16"), resume=_ANY_TIME),
        "remat": Field(
            "none",
            "what the backward pass recomputes: nothing, all of a block, or all of it but the convolutions",
            ("none", "full", "convs"),
            resume=_ANY_TIME,
        ),
        "unroll": Field(1, "blocks in one loop body", low=1, resume=_ANY_TIME),
    },
    "schedule": {
        "kind": Field(
            "learned_scalar",
            "gamma(t); the table of a DDPM, or an SDE",
            (
                "linear",
                "cosine",
                "learned_scalar",
                "learned_monotone",
                "ddpm_linear",
                "ddpm_cosine",
                "constant_sigma",
                "ddgan_vp",
                "vp_sde",
                "sub_vp_sde",
                "ve_sde",
            ),
        ),
        "gamma_0": Field(-13.3, "gamma(0) at the start of training", low=-30, high=10),
        "gamma_1": Field(5.0, "gamma(1) at the start of training", low=-10, high=30),
        "features": Field(1024, "hidden units of the monotone network", low=1),
        "num_timesteps": Field(1000, "levels T of a table", low=1, high=2**20),
        "beta_min": Field(0.1, "T beta_1 of 'ddpm_linear', beta(0) of the VP and sub-VP SDE", low=1e-6),
        "beta_max": Field(20.0, "T beta_T of 'ddpm_linear', beta(1) of the VP and sub-VP SDE", low=1e-6),
        "step_variance": Field(0.02, "sigma^2 of every step of 'constant_sigma'", low=1e-6, high=0.999),
        "remaining": Field(0.01, "'constant_sigma' ends where alpha falls below this; it sets T", low=1e-6, high=0.999),
        "sigma_min": Field(0.01, "sigma(0) of the VE SDE", low=1e-6, high=1e6),
        "sigma_max": Field(50.0, "sigma(1) of the VE SDE", low=1e-6, high=1e6),
        "t_min": Field(1e-5, "the t that stands for 0 in an SDE", low=1e-7, high=0.1),
        "minimise_variance": Field(False, "the path follows the gradient of E[L^2] (VDM, I.2)"),
    },
    "training": {
        "seed": Field(1, "of parameters, data order, times and noise", low=0, high=2**32 - 1),
        "num_steps": Field(1000, "steps", low=1, resume=_ANY_TIME),
        "num_timesteps": Field(0, "T of the trained bound; 0 for continuous time", low=0, high=2**24),
        "times": Field(
            "stratified", "how t is drawn; by importance for the VLB", ("stratified", "independent", "importance")
        ),
        "weighting": Field("vlb", "weights of the diffusion loss", ("vlb", "simple", "hybrid")),
        "label_dropout": Field(0.0, "p_uncond, the share of labels replaced by the null class", low=0.0, high=0.99),
        "distill": Field(
            "none",
            "a student of --weights, best of x or v: one step for two of its teacher's, or for all; it has a loss "
            "and levels of its own, whatever `weighting` and `times` say",
            ("none", "progressive", "one_step"),
        ),
        "teacher": Field("", "the weights of a student's teacher: a working directory or a file", resume=_ANY_TIME),
        "student_steps": Field(4, "steps of a student, of 'progressive'; its teacher takes twice as many", low=1),
        "teacher_steps": Field(16, "steps of the teacher's DDIM, of 'one_step'", low=1),
        "adversary": Field(
            "pairs",
            "what a DDGAN's discriminator sees: z_s beside z_t, or diffused data and one-shot samples alone",
            ("pairs", "augmented"),
        ),
        "r1": Field(0.05, "weight r of r/2 |grad D|^2 on real data", low=0.0),
        "r1_every": Field(1, "steps from one with R1 to the next; 0 for never", low=0),
        "vlb_weight": Field(0.001, "lambda of L_simple + lambda L_vlb, for 'hybrid'", low=0.0),
        "log_every": Field(50, "steps between lines of metrics", low=1, resume=_ANY_TIME),
        "eval_every": Field(0, "steps between evaluations; 0 only at the end", low=0, resume=_ANY_TIME),
        "eval_examples": Field(0, "examples of those evaluations; 0 for evaluation.examples", low=0, resume=_ANY_TIME),
        "checkpoint_every": Field(1000, "steps between checkpoints", low=1, resume=_ANY_TIME),
        "keep": Field(3, "newest checkpoints kept", low=1, resume=_ANY_TIME),
        "keep_every": Field(0, "checkpoints of these steps are kept for good; 0 for none", low=0, resume=_ANY_TIME),
        "sample_every": Field(0, "steps between sample grids; 0 only at the end", low=0, resume=_ANY_TIME),
        "parallelism": Field("jit", "what runs the step on many devices", ("jit", "pmap"), resume=_ANY_TIME),
        "fsdp": Field(1, "devices that share one copy of parameters and optimiser state", low=1, resume=_ANY_TIME),
        "accumulate": Field(1, "microbatches a step is made of, one after the other", low=1, resume=_ANY_TIME),
        "steps_per_call": Field(1, "steps the host starts at once", low=1, resume=_ANY_TIME),
        "bad_steps": Field(
            5, "steps in a row with a loss or gradient that is not finite before on_bad", low=1, resume=_ANY_TIME
        ),
        "spike": Field(
            0.0, "a loss of so many times its running mean is bad at once; 0 for none", low=0.0, resume=_ANY_TIME
        ),
        "on_bad": Field(
            "stop", "stop, or go back to a checkpoint and on with other data", ("stop", "rollback"), resume=_ANY_TIME
        ),
        "profile_steps": Field(
            (0, 0), "the first and last step of a trace for TensorBoard; 0, 0 for none", low=0, resume=_ANY_TIME
        ),
    },
    "optimizer": {
        "name": Field("adamw", "of the network: AdamW, or Muon inside it and AdamW at its edges", ("adamw", "muon")),
        "learning_rate": Field(2e-4, "peak learning rate of AdamW", low=0.0),
        "muon_learning_rate": Field(1e-3, "peak learning rate of Muon; its updates have Adam's size", low=0.0),
        "schedule_learning_rate": Field(0.0, "of the schedule's leaves; 0 for the learning rate", low=0.0),
        "discriminator_learning_rate": Field(0.0, "of a discriminator; 0 for the learning rate", low=0.0),
        "final_learning_rate": Field(0.0, "where decay ends, unless it is constant", low=0.0),
        "warmup_steps": Field(100, "steps of linear warm-up", low=0),
        "decay": Field("constant", "after the warm-up, over num_steps", ("constant", "cosine", "linear")),
        "b1": Field(0.9, "Adam beta 1", low=0.0, high=0.9999),
        "b2": Field(0.99, "Adam beta 2", low=0.0, high=0.99999),
        "eps": Field(1e-8, "Adam epsilon", low=0.0),
        "weight_decay": Field(0.01, "of kernels, decoupled; under Muon of its own kernels alone", low=0.0),
        "clip": Field(1.0, "largest joint norm of the network's gradient; 0 for no clipping", low=0.0),
        "ema": Field(0.9999, "decay of the averaged weights, warmed up as (1 + n)/(10 + n)", low=0.0, high=0.999999),
    },
    "sampling": {
        "sampler": Field(
            "ancestral",
            "the reverse step; 'adaptive' is the flow in as many steps as each image takes at sampling.tolerance",
            (
                "ancestral",
                "ddim",
                "euler",
                "heun",
                "adaptive",
                "euler_maruyama",
                "reverse_diffusion",
                "predictor_corrector",
                "langevin",
            ),
            resume=_ANY_TIME,
        ),
        "respacing": Field(
            "", "levels of a table to visit: '250', 'ddim50', '10,10,3,2,2'; '' for num_steps of them", resume=_ANY_TIME
        ),
        "corrector_steps": Field(1, "Langevin steps at each level", low=0, resume=_ANY_TIME),
        "snr": Field(0.16, "r of the Langevin steps' size", low=0.0, resume=_ANY_TIME),
        "t_min": Field(
            0.0, "the t where an SDE's samples end; 0 for schedule.t_min", low=0.0, high=0.1, resume=_ANY_TIME
        ),
        "denoise": Field(True, "an SDE's sample ends with the mean of its last step, without noise", resume=_ANY_TIME),
        "num_steps": Field(
            250, "steps of the sampler; of 'adaptive' the points of its path for pictures", low=1, resume=_ANY_TIME
        ),
        "tolerance": Field(
            1e-5, "of a step of the sampler 'adaptive', relative and absolute", low=2e-6, high=0.1, resume=_ANY_TIME
        ),
        "eta": Field(0.0, "noise of DDIM: 0 none, 1 ancestral", low=0.0, high=1.0, resume=_ANY_TIME),
        "clip": Field(False, "clip the predicted x to [-1, 1]", resume=_ANY_TIME),
        "draw": Field(False, "draw from p(x|z_0), not its most likely level", resume=_ANY_TIME),
        "label": Field(
            -1,
            "the class of all samples, num_classes for the null class; -1 for each in turn",
            low=-1,
            resume=_ANY_TIME,
        ),
        "low_resolution": Field(
            "", "samples/STEP.npz of the model whose samples an upsampler enlarges, with their labels", resume=_ANY_TIME
        ),
        "guidance": Field(
            (0.0,),
            "w of classifier-free guidance, (1 + w) eps(c) - w eps(null); a scale s of other papers is w = s - 1; "
            "of several each is sampled",
            low=-1.0,
            high=100.0,
            resume=_ANY_TIME,
        ),
        "classifier": Field(
            "", "a noisy classifier that guides a DDPM's samples: its working directory or weights", resume=_ANY_TIME
        ),
        "classifier_config": Field("", "its config, for published weights; '' for the directory's", resume=_ANY_TIME),
        "classifier_scale": Field(
            1.0, "s of s grad log p(c|z), on top of what the model gives", low=0.0, high=1000.0, resume=_ANY_TIME
        ),
        "guidance_interval": Field(
            EVERYWHERE, "the gammas between which guidance acts", low=-100.0, high=100.0, resume=_ANY_TIME
        ),
        "percentile": Field(
            0.0,
            "of |x| that clip scales to 1 where it is more (dynamic thresholding); 0 to clip at 1",
            low=0.0,
            high=100.0,
            resume=_ANY_TIME,
        ),
        "variance_mix": Field(
            0.0,
            "w of an ancestral step's log variance, w log beta + (1 - w) log beta-tilde, one that is not learned",
            low=0.0,
            high=1.0,
            resume=_ANY_TIME,
        ),
        "num_images": Field(64, "images", low=1, resume=_ANY_TIME),
        "batch_size": Field(64, "images at a time", low=1, resume=_ANY_TIME),
        "seed": Field(0, "of the noise", low=0, high=2**32 - 1, resume=_ANY_TIME),
    },
    "evaluation": {
        "estimator": Field("vlb", "of the likelihood", ("vlb", "ode"), resume=_ANY_TIME),
        "num_timesteps": Field(0, "T of the evaluated bound; 0 for infinity", low=0, high=2**24, resume=_ANY_TIME),
        "clip": Field(True, "a DDPM's bound with the predicted x clipped to [-1, 1]", resume=_ANY_TIME),
        "levels": Field(0, "levels of a table drawn for each example and pass; 0 for all T", low=0, resume=_ANY_TIME),
        "split": Field("test", "what to evaluate on", ("test", "tune", "fit", "train"), resume=_ANY_TIME),
        "examples": Field(0, "the first so many of the split; 0 for all", low=0, resume=_ANY_TIME),
        "passes": Field(4, "passes with new times and noise", low=1, resume=_ANY_TIME),
        "batch_size": Field(64, "examples at a time", low=1, resume=_ANY_TIME),
        "seed": Field(0, "of times and noise", low=0, high=2**32 - 1, resume=_ANY_TIME),
        "num_samples": Field(
            0,
            "samples that are drawn for the Fréchet distance, precision and recall; 0 for none, a DDGAN draws 1,000",
            low=0,
            resume=_ANY_TIME,
        ),
        "weights": Field("ema", "which weights", ("ema", "raw"), resume=_ANY_TIME),
        "tolerance": Field(
            1e-5, "of a step of the ODE solver, relative and absolute", low=2e-6, high=0.1, resume=_ANY_TIME
        ),
        "divergence": Field(
            "auto",
            "of the flow: exact up to 16 dimensions, else Hutchinson's",
            ("auto", "exact", "hutchinson"),
            resume=_ANY_TIME,
        ),
    },
}


def field_table() -> dict[str, Field]:
    """Every field by its dotted name."""
    return {
        f"{section}.{name}" if section else name: field
        for section, fields in FIELDS.items()
        for name, field in fields.items()
    }


def nearest(name: str, known: Iterable[Any]) -> str:
    """'did you mean X?' if one of the known names is close, else the nearest and all of them."""
    names = [str(k) for k in known]
    if not names:
        return "there are none"
    best, close = _best(name, names)
    return f"did you mean {best!r}?" if close else f"the nearest is {best!r} of {', '.join(names)}"


def nearest_field(name: str) -> str:
    """`nearest` for 'section.field': a section of that name is believed, else a field of that name."""
    section, _, leaf = name.rpartition(".")
    if section and section in FIELDS:
        best, close = _best(leaf, list(FIELDS[section]))
        best = f"{section}.{best}"
    else:
        twins = [known for known in field_table() if known.rpartition(".")[2] == leaf]
        best, close = _best(name, twins or list(field_table()))
        close = close or bool(twins)
    return f"did you mean config.{best}?" if close else f"the nearest is config.{best}"


def _best(name: str, names: list[str]) -> tuple[str, bool]:
    """The most similar of the names, and whether it is similar enough to be meant."""
    best = difflib.get_close_matches(name, names, 1, 0.0)[0]
    return best, difflib.SequenceMatcher(None, name, best).ratio() >= 0.5


def check_value(name: str, value: Any, field: Field) -> None:
    """Raise UserError if a field's value, or an item of a tuple, has the wrong type or is out of bounds."""
    kind = type(field.default)
    if kind is tuple:
        item_kind = type(field.default[0]) if field.default else type(field.choices[0])
        if not isinstance(value, tuple) or not all(_is(item, item_kind) for item in value):
            raise UserError(f"config.{name}={value!r} is not a tuple of {item_kind.__name__}: {field.help}")
    elif not _is(value, kind):
        raise UserError(f"config.{name}={value!r} is not of type {kind.__name__}: {field.help}")
    for item in value if kind is tuple else (value,):
        if field.choices and item not in field.choices:
            legal = ", ".join(map(repr, field.choices))
            hint = f"; {nearest(str(item), field.choices)}" if len(field.choices) > 1 else ""
            raise UserError(f"config.{name}={item!r} is not one of {legal}{hint}")
        if field.low is not None and not item >= field.low:
            raise UserError(f"config.{name}={value!r} must be at least {field.low}: {field.help}")
        if field.high is not None and not item <= field.high:
            raise UserError(f"config.{name}={value!r} must be at most {field.high}: {field.help}")


def _is(value: Any, kind: type) -> bool:
    """Of that type; integers are floats, booleans are no numbers, floats are finite."""
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
