"""The rows, the table and the figure; see the package docstring for the command."""

from __future__ import annotations

import tempfile
from typing import Any

import jax
from etils import epath
from matplotlib.figure import Figure

from experiments import common
from experiments.benchmarks.measures import MEASURES

SIZES = {"mini": (64, 4, 16), "paper": (128, 32, 128)}
# Alternatives for the same step: name → (changes of the first, changes of the second).
PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "scanned / unrolled": ({}, {"model.unroll": 10**6}),
    "pmap / jit": ({"training.parallelism": "pmap", "devices": 8}, {"devices": 8}),
    "fsdp over 2 / whole": ({"training.fsdp": 2, "devices": 2}, {"devices": 2}),
    "4 microbatches / 1": ({"training.accumulate": 4}, {}),
    "calls of 4 steps / of 1": ({"training.steps_per_call": 4}, {}),
    "remat full / none": ({"model.remat": "full"}, {}),
    "remat convs / none": ({"model.remat": "convs"}, {}),
    "bfloat16 / float32": ({"model.dtype": "bfloat16"}, {}),
    "2 devices / 1": ({"devices": 2}, {"devices": 1}),
    "4 devices / 1": ({"devices": 4}, {"devices": 1}),
    "8 devices / 1": ({"devices": 8}, {"devices": 1}),
}
MEMORY = ("remat full / none", "remat convs / none", "4 microbatches / 1", "bfloat16 / float32")


def rows(scale: str) -> list[common.Row]:
    size, repeats = SIZES[scale], 7
    wide = (128, 4, 128)  # the size of the CIFAR-10 network
    timed = {"size": size, "repeats": repeats}
    found = [common.Row("compile, depth 32 / 4", {"kind": "compile", "size": wide, "first": 32, "second": 4})]
    for name, (first, second) in PAIRS.items():
        found.append(common.Row(f"step, {name}", {"kind": "pair", **timed, "first": first, "second": second}))
    for name in MEMORY:
        first, second = PAIRS[name]
        found.append(common.Row(f"memory, {name}", {"kind": "memory", "size": wide, "first": first, "second": second}))
    for kind in ("ancestral", "heun"):
        settings = {"kind": "sampler", **timed, "repeats": 3, "sampler": kind, "num_steps": 8}
        found.append(common.Row(f"sampler, {kind}", settings))
    for source, augment in (("npz", ()), ("npz", ("flip", "rot90", "channels")), ("folder", ("flip",))):
        settings = {"kind": "pipeline", **timed, "source": source, "augment": augment, "batches": 200}
        found.append(common.Row(f"pipeline, {', '.join((source, *augment))}", {**settings, "repeats": 3}))
    found.append(common.Row("checkpoint", {"kind": "stall", "size": size, "repeats": 3, "steps": 4}))
    return found


def measure(row: common.Row, seed: int, workdir: epath.Path) -> common.Outcome:
    settings = dict(row.config)
    size = tuple(settings["size"])
    with tempfile.TemporaryDirectory() as scratch:
        outcome = common.Outcome(MEASURES[settings["kind"]](size, settings, epath.Path(scratch)))
    jax.clear_caches()
    return outcome


def plot(results: common.Results) -> Figure:
    entries = [entry for entry in results["rows"] if entry["config"]["kind"] == "pair"]
    figure = Figure((7, 0.32 * len(entries) + 0.8))
    axes = figure.subplots()
    ratios = [entry["measured"]["ratio"] for entry in entries]
    axes.barh(
        [entry["name"].removeprefix("step, ") for entry in entries],
        [r["mean"] for r in ratios],
        xerr=[r["standard_error"] or 0 for r in ratios],
        color="C0",
    )
    axes.axvline(1, color="gray", lw=1)
    axes.invert_yaxis()
    axes.set(xlabel="time of a train step, first / second (bars: half the interquartile range)")
    return figure


EXPERIMENT = common.Experiment(
    name="benchmarks",
    title="What a step, a compilation, a sampler step, an image and a checkpoint cost",
    notes="CIFAR-10 VDM with AdamW and EMA; (width, depth, batch) are in the JSON: the small size for times, width 128 "
    "and batch 128 for compile time and for memory (temporaries of a device, from the compiler). ± is half the "
    "interquartile range over repeats or pairs. `pipeline_ratio`: images/s of the pipeline alone over what the "
    "step takes. `share_of_interval`: what a checkpoint adds, of the time between two at the default "
    "`training.checkpoint_every`. More devices than cores are virtual ones that share them.",
    data=lambda scale: "random bytes, 32×32×3",
    rows=rows,
    measure=measure,
    plot=plot,
)

if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)  # for the rows on virtual devices; no effect on GPUs and TPUs
    common.main(EXPERIMENT, batch_size=SIZES["mini"][2])
