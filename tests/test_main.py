"""The command line: every kind of bad input is one sentence and changes nothing; the four modes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pathlib
import pkgutil
import re
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

import vdm_jax
from vdm_jax import config as configs
from vdm_jax import main, modes
from vdm_jax.config import overrides
from vdm_jax.training import metrics

TINY = (
    "--config=configs/swirl.py:smoke",
    *("--config.data.batch_size=16", "--config.model.width=8", "--config.model.depth", "1"),
    *("--config.schedule.features=4", "--config.training.num_steps=2", "--config.training.log_every=1"),
    *("--config.evaluation.examples=20", "--config.evaluation.batch_size=16"),
    *("--config.sampling.num_steps=2", "--config.sampling.num_images=4"),
)


def call(*arguments: str) -> int:
    """The command line within this process; its exit status."""
    with flagsaver.flagsaver():
        try:
            main.main(main.parse(["vdm_jax", *arguments]))
        except SystemExit as leaving:
            return int(leaving.code or 0)
        finally:
            flags.FLAGS.mark_as_parsed()
    return 0


def contents(directory: pathlib.Path) -> dict[str, str]:
    """Every file with the hash of its bytes."""
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A directory in which the tiny config was trained by the command line."""
    directory = tmp_path_factory.mktemp("above")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        assert call(*TINY, "--workdir=run") == 0
    return directory / "run"


CIFAR = "--config=configs/cifar10.py"
DIGITS = "--config=configs/digits.py:smoke"
RUN = "--workdir={run}"
NEW = "--workdir={new}"
BAD: dict[str, tuple[tuple[str, ...], str]] = {
    "unknown field": ((*TINY, RUN, "--config.model.widht=8"), "did you mean config.model.width?"),
    "unknown section": ((*TINY, RUN, "--config.foo.bar=1"), "unknown config field config.foo.bar; the nearest is"),
    "below a field": ((*TINY, RUN, "--config.model.width.x=1"), "unknown config field config.model.width.x"),
    "a section": ((*TINY, RUN, "--config.model=1"), "config.model is a section; set one of its fields"),
    "no integer": ((*TINY, RUN, "--config.data.batch_size=abc"), "config.data.batch_size=abc is not of type int: "),
    "a float": ((*TINY, RUN, "--config.model.width=1.5"), "config.model.width=1.5 is not of type int"),
    "no boolean": ((*TINY, RUN, "--config.model.attention=maybe"), "config.model.attention=maybe is not of type bool"),
    "no tuple": ((*TINY, RUN, "--config.data.shape=(8,"), "config.data.shape=(8, is not of type tuple"),
    "no value": ((*TINY, RUN, "--config.model.width"), "config.model.width"),
    "unknown value": ((*TINY, RUN, "--config.schedule.kind=lineer"), "did you mean 'linear'?"),
    "unknown variant": (("--config=configs/swirl.py:smok", RUN), "unknown variant 'smok'; did you mean 'smoke'?"),
    "unknown config": (("--config=configs/swir.py", RUN), "did you mean 'configs/swirl.py'?"),
    "unknown mode": ((*TINY, RUN, "--mode=trian"), "unknown --mode=trian; did you mean 'train'?"),
    "unknown flag": ((*TINY, RUN, "--confg=a"), "Unknown command line flag 'confg'. Did you mean: config ?"),
    "no flag": ((*TINY, RUN, "train"), "'train' is not a flag"),
    "no workdir": (TINY, "--workdir is missing"),
    "no config": ((NEW,), "--config is missing"),
    "unknown data": ((DIGITS, NEW, "--config.data.name=digit"), "did you mean 'digits'?"),
    "no data": ((CIFAR, NEW, "--config.data.path={new}"), "does not exist"),
    "other shape": ((DIGITS, NEW, "--config.data.shape=(8,8,3)"), "data.shape=(8, 8, 3) but the records of digits"),
    "other range": ((DIGITS, NEW, "--config.data.vocabulary=16"), "data.vocabulary=16 but digits"),
    "batch too large": ((DIGITS, NEW, "--config.data.batch_size=2000"), "has 1500 examples; use at most that"),
    "batch and devices": ((DIGITS, NEW, "--config.data.batch_size=7"), "divisible by the 2 devices; try 6"),
    "other config": ((*TINY, RUN, "--config.training.seed=9"), "another config (training.seed: 1 → 9)"),
    "no weights": ((*TINY, RUN, "--weights={new}", "--mode=eval"), "no weights at"),
    "foreign weights": ((*TINY, NEW, "--weights={file}", "--mode=eval"), "is not in a supported format of weights"),
    "empty folder": (
        (*TINY, NEW, "--weights={empty}", "--mode=sample"),
        "is a directory without a checkpoint in it",
    ),
    "other model": ((DIGITS, NEW, "--weights={run}", "--mode=eval"), "belong to another model (data.shape:"),
    "not trained": ((*TINY, NEW, "--mode=eval"), "no weights at"),
    "samples without end": (
        (RUN, "--mode=sample", "--config.sampling.num_images=100000000000"),
        "config.sampling.num_images=100000000000 samples take ",
    ),
    "samples of an evaluation without end": (
        (RUN, "--mode=eval", "--config.evaluation.num_samples=100000000000"),
        "config.evaluation.num_samples=100000000000 samples take ",
    ),
    "samples after training without end": (
        (*TINY, NEW, "--config.sampling.num_images=100000000000"),
        "config.sampling.num_images=100000000000 samples take ",
    ),
    "workdir is a file": ((*TINY, "--workdir={file}"), "is a file, so"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_changes_nothing(
    case: str, run: pathlib.Path, tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments, sentence = BAD[case]
    places = {"run": run, "new": tmp_path / "new", "file": tmp_path / "file", "empty": tmp_path / "empty"}
    places["file"].write_bytes(b"\x89PNG and so on")
    places["empty"].mkdir()
    before = contents(run), contents(tmp_path)
    capfd.readouterr()
    status = call(*(a.format(**places) for a in arguments))
    said = capfd.readouterr()
    assert status == 2
    assert said.err.startswith("vdm_jax: ") and said.err.count("\n") == 1
    assert sentence in said.err and said.out == ""
    assert (contents(run), contents(tmp_path)) == before and not places["new"].exists()


def test_overrides_in_every_spelling() -> None:
    before = ("--config", "a.py", "--config.model.width", "64", "-config.model.depth=2", "--workdir=w")
    after = ("--config.model.attention", "--noconfig.model.fourier_damping", "--config.data.augment=('flip',)", "x")
    arguments, rest = overrides.split([*before, *after])
    assert rest == ["--config", "a.py", "--workdir=w", "x"]
    config = configs.base()
    config.model.fourier_damping = True
    overrides.apply(config, [*arguments, "--config.optimizer.learning_rate=1", "--config.data.shape=(4,4,1)"])
    model = config.model
    assert (model.width, model.depth, model.attention, model.fourier_damping) == (64, 2, True, False)
    assert config.data.augment == ("flip",) and config.data.shape == (4, 4, 1)
    assert config.optimizer.learning_rate == 1.0 and isinstance(config.optimizer.learning_rate, float)


def test_help_of_a_config_needs_no_working_directory(capfd: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    """It prints the fields of that config, as overridden, with their help, and makes nothing."""
    assert (
        call("--config=configs/swirl.py", "--help_config", "--config.sampling.eta=0.5", "--config.model.width=16") == 2
    )
    assert "config.sampling.sampler='ancestral' has no such field" in capfd.readouterr().err
    eta = ("--config.sampling.eta=0.5", "--config.sampling.sampler=ddim")
    assert call("--config=configs/swirl.py", "--help_config", *eta) == 0
    said = capfd.readouterr().out
    assert "  --config.sampling.eta=0.5: noise of DDIM: 0 none, 1 ancestral (at least 0; at most 1; may change" in said
    assert "  --config.schedule.features=64: hidden units of the monotone network (at least 1)" in said
    assert "model.fourier" not in said and not list(tmp_path.iterdir())


def test_inspect_needs_no_working_directory(capfd: pytest.CaptureFixture[str], tmp_path: pathlib.Path) -> None:
    """It prints the fields, and what the config builds: a network of 222,657 numbers, one phase, one evaluator."""
    given = ("--config=configs/digits.py:classes", "--config.sampling.num_steps=7", "--mode=inspect")
    assert call(*given) == 0
    said = capfd.readouterr().out
    assert "\n  --config.training.label_dropout=0.1: " in said
    assert said.endswith(
        """
config      vdm on digits, examples of shape (8, 8, 1)
batch       x uint8 [32, 8, 8, 1], label int32 [32]
parameters  222,657 in network
parameters  2 in schedule
phase       vdm: trains network and schedule, config.optimizer.learning_rate=0.003
condition   label: int32 [32], dropped with probability 0.1, may guide samples
evaluator   bits/dim (vlb_continuous)
sampler     ancestral, 7 steps, 64 images
"""
    )
    assert call(*given, f"--workdir={tmp_path / 'new'}") == 0
    assert capfd.readouterr().out == f"{said}workdir     {tmp_path / 'new'}: does not exist\n"
    assert call("--mode=inspect") == 2 and "--workdir is missing" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def test_train_leaves_what_the_design_says(run: pathlib.Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names >= {"config.json", "metrics.jsonl", "checkpoints", "samples", "eval.json", "plots"}
    assert any(name.startswith("events.out.tfevents.") for name in names)
    assert {p.name for p in (run / "plots").iterdir()} == {"schedule.png", "loss_by_t.png"}
    assert {p.name for p in (run / "samples").iterdir()} == {"2.png", "2.npz", "2_strip.png"}
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["split"]) for row in rows] == [(1, "train"), (2, "train"), (2, "test")]
    result = json.loads((run / "eval.json").read_text())
    told = {"bits_per_dim", "standard_error", "monte_carlo_error", "reconstruction", "prior", "diffusion", "estimator"}
    assert set(result) == told | {"dataset", "split", "examples", "passes", "seed", "step", "weights", "made_by"}
    assert (result["examples"], result["step"], result["weights"]) == (20, 2, "ema")
    (kept,) = (run / "evals").iterdir()
    assert kept.name == f"step2_vlb_continuous_test_20x{result['passes']}_seed{result['seed']}_ema.json"
    assert json.loads(kept.read_text()) == result
    total = result["reconstruction"] + result["prior"] + result["diffusion"]
    assert result["bits_per_dim"] == pytest.approx(total, rel=1e-5)


@pytest.mark.slow
def test_train_says_what_it_waits_for(run: pathlib.Path, tmp_path: pathlib.Path, capfd: Any) -> None:
    """Compilation with its seconds, the weights of the evaluation, and the samples before they are drawn."""
    capfd.readouterr()
    assert call(*TINY, f"--workdir={tmp_path / 'new'}") == 0
    said = capfd.readouterr().out.splitlines()
    at = [
        next(k for k, line in enumerate(said) if line.startswith(start)) for start in ("steps ", "compiling", "step 1")
    ]
    assert said[at[1] : at[2]] == ["compiling the training step …", said[at[2] - 1]] and at[1] == at[0] + 1
    assert re.fullmatch(r"compiled, and took the first step, in \d+s", said[at[2] - 1])
    assert sum("averaged weights (EMA, decay 0.995, about the last step), step 2," in line for line in said) == 1
    assert said[-2] == "sampling 4 images in 2 steps (config.sampling.num_images, config.sampling.num_steps)"
    rows = [json.loads(line) for line in (tmp_path / "new" / "metrics.jsonl").read_text().splitlines()]
    before = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    untimed = lambda row: {k: v for k, v in row.items() if k not in metrics.TIMED}
    assert list(map(untimed, rows)) == list(map(untimed, before))


def test_directory_remembers_its_config(run: pathlib.Path, capfd: pytest.CaptureFixture[str]) -> None:
    record = (run / "config.json").read_text()
    assert call(f"--workdir={run}", "--mode=eval", "--config.evaluation.passes=3") == 0
    assert json.loads((run / "eval.json").read_text())["passes"] == 3
    before = contents(run / "samples")
    assert call(f"--workdir={run}", "--mode=sample", "--config.sampling.seed=5") == 0
    assert before.items() <= contents(run / "samples").items()
    first, second = (np.load(run / "samples" / name)["samples"] for name in ("2.npz", "2_seed5.npz"))
    assert not np.array_equal(first, second)
    assert (run / "config.json").read_text() == record  # they are questions, not another run
    capfd.readouterr()
    before = contents(run)
    assert call(f"--workdir={run}", "--mode=inspect") == 0
    said = capfd.readouterr().out
    for part in ("swirl", "checkpoints 2", "in network", "gamma_0", "test, step 2: bits/dim", "20 images"):
        assert part in said
    assert f"samples     2, 2_seed5 in {run / 'samples'}" in said
    assert "evals       step2_vlb_continuous_test_20x" in said and said.count("_seed0_ema") == 2
    assert "  --config.training.num_steps=2: number of training steps (at least 1" in said
    assert contents(run) == before


README = pathlib.Path(__file__).resolve().parents[1] / "README.md"


@pytest.mark.slow
def test_commands_of_the_readme_leave_every_result(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Training, two evaluations and two sets of samples: none replaces another."""
    named = re.findall(r"runs/digits (--mode=(?:eval|sample).*)", README.read_text())
    assert named == [
        "--mode=eval --config.evaluation.num_timesteps=100",
        "--mode=eval --config.evaluation.estimator=ode",
        "--mode=sample --config.sampling.sampler=ddim",
        "--mode=sample --config.sampling.sampler=adaptive",
    ]
    place = tmp_path / "run"
    shutil.copytree(run, place, ignore=shutil.ignore_patterns("evals", "2_seed*"))
    trained = contents(place / "samples")
    for arguments in named:
        assert call(f"--workdir={place}", *arguments.split(), "--config.evaluation.passes=1") == 0
    results = {path.name for path in (place / "evals").iterdir()}
    kinds = ("vlb_T100", "ode")
    assert results == {"earlier.json", *(f"step2_{kind}_test_20x1_seed0_ema.json" for kind in kinds)}
    assert json.loads((place / "eval.json").read_text())["estimator"] == "ode"
    after = contents(place / "samples")
    assert trained.items() <= after.items()
    assert {pathlib.Path(p).stem.removesuffix("_strip") for p in after} == {"2", "2_ddim", "2_adaptive"}
    made = [json.loads(str(np.load(place / "samples" / f"{stem}.npz")["made_by"])) for stem in ("2_ddim", "2_adaptive")]
    assert [m["sampling"]["sampler"] for m in made] == ["ddim", "adaptive"]


def test_result_that_is_none_of_ours_is_a_sentence(tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "eval.json").write_text("[]")
    assert call(*TINY, f"--workdir={tmp_path}", "--mode=inspect") == 2
    assert "eval.json is not a result of --mode=eval" in capfd.readouterr().err


def test_weights_of_a_run_are_evaluated_elsewhere(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    place = tmp_path / "elsewhere"
    assert call(*TINY, f"--workdir={place}", "--mode=eval", f"--weights={run}") == 0
    assert json.loads((place / "eval.json").read_text())["step"] == 2
    assert json.loads((place / "config.json").read_text())["config"]["model"]["width"] == 8
    assert not (place / "checkpoints").exists()


@pytest.mark.parametrize(
    ("function", "arguments", "sentence"),
    [
        ("training.loop._steps", ("--mode=train",), "out of memory in training (no 9 bytes); set config.training.acc"),
        ("evaluation.likelihood.one_pass", ("--mode=eval",), "out of memory in an evaluation (no 9 bytes); set config"),
        ("evaluation.samples._sampler", ("--mode=sample",), "out of memory in sampling (no 9 bytes); set config.samp"),
        ("weights.load", ("--mode=inspect",), "out of memory in --mode=inspect (no 9 bytes); use a smaller model"),
    ],
)
def test_exhausted_memory_is_a_sentence_in_every_mode(
    function: str,
    arguments: tuple[str, ...],
    sentence: str,
    run: pathlib.Path,
    tmp_path: Any,
    monkeypatch: Any,
    capfd: Any,
) -> None:
    def exhausted(*arguments: Any, **options: Any) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no 9 bytes.\nmore")

    monkeypatch.setattr(f"vdm_jax.{function}", exhausted)
    place = tmp_path / "new" if "--mode=train" in arguments else run
    assert call(*TINY, f"--workdir={place}", *arguments) == 2
    said = capfd.readouterr().err
    assert sentence in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (KeyboardInterrupt(), 130, "interrupted; run the same command again to continue"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/d/x"),
            2,
            "No space left on device: /d/x; when that is fixed, run the same command",
        ),
    ],
)
def test_interruptions_and_full_disks_are_sentences(
    error: BaseException, status: int, sentence: str, tmp_path: Any, monkeypatch: Any, capfd: Any
) -> None:
    def stop(*arguments: Any) -> None:
        raise error

    monkeypatch.setitem(modes.RUN, "inspect", stop)
    assert call(*TINY, f"--workdir={tmp_path}", "--mode=inspect") == status
    assert sentence in capfd.readouterr().err


def test_bugs_keep_their_traceback(tmp_path: Any, monkeypatch: Any) -> None:
    def stop(*arguments: Any) -> None:
        raise FileNotFoundError(errno.ENOENT, "a bug")

    monkeypatch.setitem(modes.RUN, "inspect", stop)
    with pytest.raises(FileNotFoundError, match="a bug"):
        call(*TINY, f"--workdir={tmp_path}", "--mode=inspect")


def python(*arguments: str, cwd: pathlib.Path, **options: Any) -> subprocess.CompletedProcess[str]:
    root = str(pathlib.Path(vdm_jax.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, **options}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_command_in_another_directory(tmp_path: pathlib.Path) -> None:
    done = python("-m", "vdm_jax.main", "--config=configs/digits.py:smok", "--workdir=run", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "vdm_jax: configs/digits.py: unknown variant 'smok'; did you mean 'smoke'?\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_reader_that_ends_early_and_a_terminal_without_unicode(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """`… | head -1` ends quietly; ± and × become ? where the encoding lacks them."""
    command = f"{sys.executable} -m vdm_jax.main --workdir={run} --mode=inspect"
    done = python("-c", f"import os; raise SystemExit(os.system({command + ' | head -1'!r}))", cwd=tmp_path)
    assert done.stderr == "" and done.stdout.count("\n") == 1 and "config.method='vdm'" in done.stdout
    done = python("-m", "vdm_jax.main", f"--workdir={run}", "--mode=inspect", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and done.stderr == "" and " ? " in done.stdout and "bits/dim" in done.stdout


@pytest.mark.parametrize("stage", ["", "'runs/base", " "])
def test_stage_without_a_directory_is_a_sentence(stage: str, run: pathlib.Path, capfd: Any) -> None:
    assert call(f"--workdir={run}", "--mode=sample", f"--stage={stage}") == 2
    assert "names no working directory; write --stage=runs/base" in capfd.readouterr().err


FORBIDDEN = "{'tensorflow', 'torch', 'torchvision', 'sklearn', 'pandas'}"


def test_core_imports_neither_tensorflow_nor_torch(tmp_path: pathlib.Path) -> None:
    names = [m.name for m in pkgutil.walk_packages(vdm_jax.__path__, "vdm_jax.") if ".configs" not in m.name]
    assert len(names) > 30
    program = f"import importlib, sys\nfor n in {names!r}: importlib.import_module(n)\n"
    program += f"print(sorted({FORBIDDEN} & set(sys.modules)))"
    done = python("-c", program, cwd=tmp_path)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.slow
def test_killed_at_any_moment_and_started_again(tmp_path: pathlib.Path) -> None:
    """SIGKILL at several moments, then to the end: the same metrics and parameters as in one go."""
    options = (
        "--config.training.log_every=3",
        "--config.training.eval_every=4",
        "--config.training.checkpoint_every=5",
    )
    arguments = ["-m", "vdm_jax.main", DIGITS, *options, "--config.training.num_steps=60"]
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert python(*arguments, f"--workdir={straight}", cwd=tmp_path).returncode == 0

    def lines(directory: pathlib.Path) -> list[dict[str, Any]]:
        rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in row.items() if k not in metrics.TIMED} for row in rows]

    root = str(pathlib.Path(vdm_jax.__file__).parents[1])
    for step in (7, 20, 41):
        process = subprocess.Popen(
            [sys.executable, *arguments, f"--workdir={broken}"],
            env={**os.environ, "PYTHONPATH": root},
            stdout=subprocess.DEVNULL,
        )
        while not _reached(broken / "metrics.jsonl", step):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert python(*arguments, f"--workdir={broken}", cwd=tmp_path).returncode == 0
    assert lines(broken) == lines(straight)
    results = [json.loads((directory / "eval.json").read_text()) for directory in (straight, broken)]
    assert results[0] == results[1]
    left, right = (np.load(directory / "samples" / "60.npz")["samples"] for directory in (straight, broken))
    np.testing.assert_array_equal(left, right)


def _reached(path: pathlib.Path, step: int) -> bool:
    if not path.exists():
        return False
    rows = path.read_text().splitlines()
    return any(f'"step": {n},' in row for row in rows for n in range(step, 61))


@pytest.mark.slow
def test_smoke_run_and_exploding_loss(tmp_path: pathlib.Path) -> None:
    program = "import sys\nfrom vdm_jax import main\nmain.main(main.parse(['vdm_jax', *sys.argv[1:]]))\n"
    program += f"print(sorted({FORBIDDEN} & set(sys.modules)))"
    done = python("-c", program, DIGITS, f"--workdir={tmp_path / 'a'}", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.endswith("\n[]\n"), done.stderr
    hot = ("--config.optimizer.learning_rate=1e30", "--config.optimizer.warmup_steps=0")
    done = python("-m", "vdm_jax.main", DIGITS, *hot, f"--workdir={tmp_path / 'b'}", cwd=tmp_path)
    assert done.returncode == 2 and "NaN or infinite at step " in done.stderr
    assert done.stderr.count("\n") == 1 and not list((tmp_path / "b" / "checkpoints").iterdir())
