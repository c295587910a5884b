"""The whole plan of a tiny config, compiled for a slice of four chips that is not there."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import jax
import pytest
from etils import epath
from ml_collections import ConfigDict

from tests.methods.test_classifier_guidance import diffusion, judge
from tests.training.runs import gan
from vdm_jax import config as configs
from vdm_jax.errors import UserError
from vdm_jax.plan import programs, report
from vdm_jax.plan.table import table
from vdm_jax.runtime import workdir

needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")


def tiny() -> ConfigDict:
    """Two blocks a side on digits, parameters over two chips."""
    config = configs.base()
    config.data.batch_size = 8
    config.model.width, config.model.groups, config.model.depth, config.model.dropout = 16, 4, 3, 0.0
    config.model.fourier = (3.0, 4.0)
    config.schedule.gamma_0 = configs.gamma_0_for(config.data.vocabulary)
    config.training.num_steps = 100
    config.training.fsdp = 2
    configs.check(config)
    return config


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], epath.Path]:
    directory = epath.Path(tmp_path_factory.mktemp("plan")) / "run"
    return report.run(tiny(), directory, "v5e:2x2", "train"), directory


@pytest.fixture(scope="module")
def here() -> programs.Program:
    """The same step for this machine's two devices."""
    return programs.train(tiny(), jax.devices())


@needs_libtpu
def test_a_plan_is_written_whole_and_printed(planned: tuple[dict[str, Any], epath.Path]) -> None:
    result, directory = planned
    assert json.loads((directory / "plan.json").read_text()) == json.loads(json.dumps(result))
    assert not list(directory.glob("*.tmp"))
    text = table(result)
    for said in ("v5e:2x2", "4 chips", "fits", "100 steps", "at best", "50%"):
        assert said in text
    assert max(map(len, text.splitlines())) < 120


@needs_libtpu
def test_a_plan_counts_the_step_of_the_trainer(
    planned: tuple[dict[str, Any], epath.Path], here: programs.Program
) -> None:
    result, _ = planned
    assert result["parameters"] == here.parameters
    assert result["model_flops"] == here.model.total > 0
    assert result["chip_hours"] == pytest.approx(4 * result["hours"])
    assert result["hours"] == pytest.approx(100 * result["seconds_per_call"]["total"] / 3600)


@needs_libtpu
def test_memory_holds_the_state_once(planned: tuple[dict[str, Any], epath.Path]) -> None:
    """Arguments are the state, its kernels over two chips, and the batch; the new state takes the place of the old."""
    result, _ = planned
    memory, whole = result["memory_bytes"], 4 * 4 * result["parameters"]  # parameters, averages and two moments
    assert whole / 2 < memory["arguments"] < 4 * whole  # small leaves are padded to tiles
    assert memory["outputs"] < memory["arguments"] / 10
    assert result["fits"]
    assert memory["total"] < memory["available"]


@needs_libtpu
def test_parameters_over_two_chips_are_gathered_a_layer_at_a_time(planned: tuple[dict[str, Any], epath.Path]) -> None:
    result, _ = planned
    gathered = result["collectives"]["all-gather"]
    assert gathered["count"] > 2 * 3  # in the loops over blocks, forward and backward
    layer = 2 * 9 * 16 * 16 * 4
    assert gathered["payload_bytes"] / gathered["count"] < 2 * layer
    assert result["unknown_loops"] == 0


def points() -> ConfigDict:
    config = configs.choose(configs.base(), {"model.network": "mlp", "schedule.kind": "linear"})
    config.data.name, config.data.shape, config.data.vocabulary, config.data.batch_size = "swirl", (2,), 0, 16
    config.model.width, config.model.depth, config.schedule.gamma_0 = 8, 1, -8.0
    config.sampling.num_steps, config.sampling.num_images, config.sampling.batch_size = 5, 64, 30
    configs.check(config)
    return config


@needs_libtpu
def test_a_sampler_is_planned_too(capsys: pytest.CaptureFixture[str]) -> None:
    result = report.run(points(), None, "v5e:2x2", "sample")
    assert (result["examples_per_call"], result["calls"]) == (32, 2)  # 30 rounded up to what four chips divide
    assert "written" not in capsys.readouterr().out
    twice = points()
    twice.sampling.num_steps, twice.sampling.batch_size = 10, 32
    assert programs.sample(twice, jax.devices()).model.total == 2 * result["model_flops"]


def test_recomputation_is_work_but_not_the_model_s(here: programs.Program) -> None:
    again = programs.train(programs.changed(tiny(), {"model.remat": "full"}), jax.devices())
    assert here.executed == here.model == again.model
    assert 1.1 < again.executed.total / again.model.total < 4 / 3  # less than one forward pass more


def test_steps_that_differ_are_averaged() -> None:
    """R1 in every third step: what it costs is a third of it."""
    found, config = programs.train(gan(), jax.devices()), gan()
    (rare, most), (often, least) = found.variants
    assert (rare, often) == (4 / 12, 8 / 12) and most > least
    assert found.model.total == pytest.approx(least + (most - least) / 3, abs=1)
    config.training.r1_every = 0
    assert programs.train(config, jax.devices()).model.total == least


@pytest.mark.slow
def test_the_network_of_a_classifier_is_counted(tmp_path: Any) -> None:
    config, alone = diffusion(sampling__classifier=str(tmp_path)), diffusion()
    workdir.claim(epath.Path(tmp_path), judge())
    guided, plain = (programs.sample(c, jax.devices()) for c in (config, alone))
    assert guided.parameters > plain.parameters and guided.model.total > 1.5 * plain.model.total


def test_a_batch_that_the_chips_do_not_divide_is_refused() -> None:
    config = tiny()
    config.data.batch_size = 9
    with pytest.raises(UserError, match="must be divisible by the 2 devices"):
        programs.train(config, jax.devices())


def test_what_to_plan_is_checked_first() -> None:
    with pytest.raises(UserError, match="--plan=trian; did you mean 'train'"):
        report.plan(tiny(), "v5e:2x2", "trian")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Used 20.30G of 15.75G hbm. Exceeded", "does NOT fit: 20.30 GiB of 15.75 GiB"),
        ("memory required for HLO temporaries (20.30G) exceeds available HBM (15.75G).", "temporary 20.30 GiB"),
        ("Out of memory.", "does NOT fit: more than a device has"),
    ],
)
def test_a_program_that_does_not_fit_is_told_with_its_numbers(here: programs.Program, said: str, told: str) -> None:
    """The compiler refuses; the plan says by how much and what to change."""

    class Refusing:
        def lower(self) -> Any:
            return self

        def compile(self, compiler_options: Any = None) -> Any:
            if compiler_options:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem")
            raise jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: {said}")

    program = here._replace(traced=Refusing())
    module, used = report.compiled(program)
    assert module is None
    result = report.describe(tiny(), report.topology.parse("v5e:2x2"), "train", program, module, used)
    assert not result["fits"]
    text = table({**result, "trace_seconds": 1.0, "compile_seconds": 1.0})
    assert told in " ".join(text.split())
    assert "--config.model.remat=full" in text
    assert "--config.training.accumulate=2" in text
