"""Every config of configs/ on TPU slices: memory, step time and total cost.

The train step is compiled for the slice on a machine without a TPU (`vdm_jax/plan`); no data set is read and nothing
is executed. Step times are roofline estimates under the assumptions that `--mode=plan` prints, not measurements.

    python -m experiments.plan_table --seeds=1

Each row takes minutes of compilation and is skipped if it exists. `--mini` has only the small configs.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from etils import epath
from matplotlib.figure import Figure

from experiments import common
from experiments.common import Measured, Outcome, Results, Row
from vdm_jax import config as configs
from vdm_jax import plan
from vdm_jax.plan import roofline, topology
from vdm_jax.plan.programs import changed

# (config, slice, changes)
Case = tuple[str, str, dict[str, Any]]
SMALL: tuple[Case, ...] = (
    ("swirl", "v5e:2x2", {}),
    ("digits", "v5e:2x2", {}),
)
FULL = {"model.remat": "full"}
PAPER: tuple[Case, ...] = (
    ("fashion_mnist", "v5e:2x4", {}),
    ("cifar10", "v5e:2x4", {}),
    ("cifar10", "v5e:2x4", FULL),
    ("cifar10", "v5e:2x4", {"model.dtype": "bfloat16"}),
    ("cifar10", "v4:2x2x2", {}),
    ("cifar10", "v5p:2x2x1", {}),
    ("cifar10", "v6e:2x4", {}),
    ("cifar10_aug", "v5e:8x8", {}),
    ("cifar10_aug", "v5e:8x8", FULL),
    ("imagenet32", "v5e:8x8", {}),
    ("imagenet64", "v5e:16x16", {}),
    ("ddpm_cifar10", "v5e:2x4", {}),
    ("iddpm_cifar10", "v5e:2x4", {}),
    ("score_sde_cifar10", "v5e:2x4", {}),
    ("scoreflow_cifar10", "v5e:2x4", {}),
    ("scoreflow_imagenet32_old", "v5e:2x4", {}),
    ("iddpm_imagenet64", "v5e:4x4", {}),
    ("ddpm_celebahq256", "v5e:4x4", {}),
)
GiB = 2**30


def name_of(config: str, where: str, overrides: dict[str, Any]) -> str:
    changes = "".join(f", {field.rpartition('.')[2]} {value}" for field, value in overrides.items())
    return f"{config} on {where}{changes}"


def rows(scale: str) -> list[Row]:
    chosen = SMALL if scale == "mini" else (*SMALL, *PAPER)
    return [
        Row(name_of(*one), {"file": f"configs/{one[0]}.py", "topology": one[1], "overrides": one[2]}) for one in chosen
    ]


def measure(row: Row, seed: int, workdir: epath.Path) -> Outcome:
    """Plan a row; only `compile_seconds` varies between seeds."""
    config = changed(configs.load(row.config["file"]), row.config["overrides"])
    configs.check(config)
    found = plan.run(config, None, row.config["topology"], "train")
    memory = found["memory_bytes"]
    measured = {
        "parameters": found["parameters"],
        "batch": found["examples_per_call"],
        "steps": found["calls"],
        "tflop_a_step": found["model_flops"] / 1e12,
        "fits": float(found["fits"]),
        "gib_a_device": memory["total"] / GiB,
        "gib_available": memory["available"] / GiB,
        "compile_seconds": found["trace_seconds"] + found["compile_seconds"],
    }
    if "seconds_per_call" in found:
        seconds = found["seconds_per_call"]
        measured |= {
            "step_ms": 1e3 * seconds["total"],
            "compute_ms": 1e3 * seconds["compute"],
            "memory_ms": 1e3 * seconds["memory"],
            "links_ms": 1e3 * seconds["links"],
            "mib_sent_a_step": found["collective_bytes"] / 2**20,
            "flop_a_byte": found["flops_per_byte"],
            "hours": found["hours"],
            "chip_hours": found["chip_hours"],
        }
    return Outcome({name: Measured(float(value)) for name, value in measured.items()})


def in_chip_hours(hours: float) -> str:
    """Return three digits of chip-hours, such as '19,500 chip-hours' or '0.000107 chip-hours'."""
    digits = 2 - math.floor(math.log10(hours))
    return f"{round(hours, digits):,.{max(0, digits)}f} chip-hours"


def plot(results: Results) -> Figure:
    """Plot the parts of the time of a step, and the chip-hours of a run."""
    entries = [entry for entry in results["rows"] if "step_ms" in entry["measured"]]
    value = lambda name: np.array([entry["measured"][name]["mean"] for entry in entries])
    figure = Figure((11, 1.2 + 0.4 * len(entries)))
    left, right = figure.subplots(1, 2, sharey=True)
    place = np.arange(len(entries))
    for offset, part in zip((-0.25, 0.0, 0.25), ("compute", "memory", "links"), strict=True):
        left.barh(place + offset, np.maximum(value(f"{part}_ms"), 1e-6), 0.25, label=part)
    left.set(xscale="log", xlabel="milliseconds per step, each in isolation", yticks=place)
    left.set_yticklabels([entry["name"] for entry in entries])
    left.invert_yaxis()
    left.legend(frameon=False)
    right.barh(place, value("chip_hours"), color="C3")
    right.set(xscale="log", xlabel="chip-hours to the config's number of steps (roofline)")
    for k, hours in enumerate(value("chip_hours")):
        right.annotate(f" {in_chip_hours(hours)}", (hours, k), va="center", fontsize=8)
    right.set_xlim(right=10 ** math.ceil(math.log10(max(value("chip_hours"))) + 4))  # room for the text
    figure.tight_layout()
    return figure


EXPERIMENT = common.Experiment(
    name="plan_table",
    title="What the configs cost on TPU slices",
    notes="The trainer's own step compiled for slices that are not there. Memory and bytes are what the compiler "
    "reports; times are a roofline, not measured: " + "; ".join(roofline.ASSUMPTIONS) + ". Chips' rates are those of "
    "`vdm_jax/runtime/chips.py`. `fits` is 1 if the program fits a device's memory.",
    data=lambda scale: "none, shapes alone",
    rows=rows,
    measure=measure,
    plot=plot,
)

if __name__ == "__main__":
    topology.prepare()
    common.main(EXPERIMENT)
