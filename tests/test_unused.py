"""Settings without an effect on the command line: each is refused in one sentence."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from tests.test_main import call
from vdm_jax import config as configs
from vdm_jax.config import unused
from vdm_jax.errors import UserError

DIGITS, CLASSES, DDPM = (
    f"--config=configs/{name}" for name in ("digits.py:smoke", "digits.py:classes", "ddpm_cifar10.py")
)
FLOW = "--config=configs/flow_matching_digits.py"
HELP = "--help_config"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((DIGITS, HELP, "--config.sampling.eta=0.5"), "it belongs to config.sampling.sampler='ddim'"),
        ((DIGITS, HELP, "--config.sampling.respacing=25"), "it belongs to config.method='ddpm'"),
        ((FLOW, HELP, "--config.evaluation.num_timesteps=9"), "it belongs to config.method='vdm'"),
        (
            (DIGITS, HELP, "--config.evaluation.estimator=ode", "--config.evaluation.num_timesteps=9"),
            "it belongs to config.evaluation.estimator='vlb'",
        ),
        (
            (DIGITS, HELP, "--config.training.eval_examples=5"),
            "config.training.eval_examples has no effect while config.training.eval_every is 0; leave it out",
        ),
        (
            (DIGITS, HELP, "--config.evaluation.tolerance=1e-3"),
            "config.evaluation.tolerance has no effect while config.evaluation.estimator is not 'ode'; leave it out",
        ),
        (
            (CLASSES, HELP, "--config.sampling.guidance=(0.0,)", "--config.sampling.guidance_interval=(-5.0,5.0)"),
            "guidance_interval has no effect while config.sampling.guidance has no weight other than 0; leave it out",
        ),
        (
            ("--config=configs/adm_imagenet64.py", HELP, "--config.sampling.classifier_scale=2.0"),
            "config.sampling.classifier_scale has no effect while config.sampling.classifier is ''; leave it out",
        ),
        (
            (DIGITS, HELP, "--config.model.fourier=()", "--config.model.fourier_damping=True"),
            "config.model.fourier_damping has no effect while config.model.fourier is (); leave it out",
        ),
        ((DIGITS, HELP, "--topology=v5e:2x2"), "--topology is for --mode=plan, and this is --mode=train; leave it out"),
        ((DIGITS, HELP, "--plan=train"), "--plan is for --mode=plan, and this is --mode=train; leave it out"),
        ((DIGITS, "--mode=eval", "--workdir=w", "--stage=a"), "--stage is for --mode=sample, and this is --mode=eval"),
        (
            (DIGITS, "--mode=plan", "--topology=v5e:2x2", "--weights=a"),
            "--weights is for --mode=train or eval or sample",
        ),
        ((DIGITS, "--workdir={w}", "--config.data.path=a"), "data.path='a' is not used by 'digits'; leave it empty"),
    ],
)
def test_setting_without_effect_is_refused(
    arguments: tuple[str, ...], sentence: str, tmp_path: pathlib.Path, capfd: Any
) -> None:
    capfd.readouterr()
    assert call(*(a.format(w=tmp_path / "w") for a in arguments)) == 2
    said = capfd.readouterr()
    assert sentence in said.err and said.err.count("\n") == 1 and said.out == "" and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("mode", "name", "changes", "used"),
    [
        ("eval", "sampling.num_steps", {}, False),
        ("eval", "sampling.num_steps", {"evaluation.num_samples": 9}, True),
        ("eval", "training.num_steps", {}, False),
        ("eval", "evaluation.passes", {}, True),
        ("sample", "evaluation.passes", {}, False),
        ("sample", "evaluation.weights", {}, True),
        ("sample", "optimizer.ema", {}, False),
        ("sample", "sampling.seed", {}, True),
        ("train", "sampling.seed", {}, True),
        ("train", "evaluation.passes", {}, True),
    ],
)
def test_sections_that_a_mode_does_not_use(mode: str, name: str, changes: dict[str, Any], used: bool) -> None:
    """They are refused for a working directory; with --config they may describe its run as a whole."""
    config = configs.choose(configs.base(), changes)
    unused.check(config, [name], mode, whole=True)
    if used:
        unused.check(config, [name], mode, whole=False)
    else:
        with pytest.raises(UserError, match=f"^config.{name} has no effect with --mode={mode}; leave it out$"):
            unused.check(config, [name], mode, whole=False)


def test_variant_that_a_config_ignores_is_refused(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from vdm_jax.config import base\ndef get_config(variant=''):\n    return base()\n")
    assert configs.load(str(file)) == configs.base()
    with pytest.raises(UserError, match=r"mine\.py: get_config ignores the variant 'small'; leave it out"):
        configs.load(f"{file}:small")
