"""The row store of the experiments; finished runs are saved immediately and skipped on a rerun.

    experiments/results/<name>.json    all numbers; `problems` checks the format
    experiments/results/<name>.md      tables of the numbers
    experiments/results/<name>.png     the figure, drawn from the JSON only

A row is a setting, a run is a (row, seed). The metrics of a run have a mean and a standard error over the images
or draws of that run. Over runs, `standard_error` combines the spread over seeds with the mean error within a run;
all seeds use the same test images, so this error does not shrink with their number.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import pathlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.tables import in_words, markdown
from vdm_jax.errors import UserError
from vdm_jax.evaluation.pictures import save_figure
from vdm_jax.runtime import devices

HERE = pathlib.Path(__file__).resolve().parent
SCALES = ("mini", "paper")
PACKAGES = ("vdm_jax", "jax", "flax", "optax")


class Row(NamedTuple):
    """A setting to measure.

    Attributes:
      name: the name of the row.
      config: everything that determines its numbers.
      paper: the numbers of the paper.
      quoted: the row has only numbers of the paper.
      seeds: the maximum number of seeds; 0 for no limit.
    """

    name: str
    config: Mapping[str, Any]
    paper: Mapping[str, float] = {}
    quoted: bool = False
    seeds: int = 0


class Measured(NamedTuple):
    """A mean of n values and its standard error (None if it has none, as for a closed form)."""

    mean: float
    standard_error: float | None = None
    n: int = 1


class Outcome(NamedTuple):
    """The result of one run; curves: lists of numbers for the figure."""

    measured: Mapping[str, Measured]
    curves: Mapping[str, Any] = {}


Results = dict[str, Any]


def mean_of(values: Any) -> Measured:
    """Return the mean of [N] independent values, or of [passes, N] with N independent columns."""
    values = np.asarray(values, np.float64)
    columns = values.mean(0) if values.ndim == 2 else values
    return Measured(float(columns.mean()), float(columns.std(ddof=1) / math.sqrt(len(columns))), len(columns))


def variance_of(values: Any) -> Measured:
    """Return the variance of independent values with the standard error √((μ₄ − σ⁴)/n)."""
    values = np.asarray(values, np.float64).reshape(-1)
    square = np.square(values - values.mean())
    return Measured(float(square.mean()), float(square.std() / math.sqrt(len(values))), len(values))


def rounded(values: Any, digits: int) -> Any:
    """Return nested lists of numbers rounded to `digits` decimals, for curves."""
    return np.round(np.asarray(values, np.float64), digits).tolist()


def start(path: pathlib.Path, about: Mapping[str, Any], rows: Sequence[Row]) -> Results:
    """Return the results in a file, or empty ones; raise UserError if the file belongs to another setting."""
    results: Results = {**about, "rows": []}
    if path.exists():
        saved = json.loads(path.read_text("utf-8"))
        for name in ("experiment", "scale", "data"):
            if saved.get(name) != about[name]:
                raise UserError(
                    f"{path} has {name}={saved.get(name)!r}, not {about[name]!r}; use another --results or remove it"
                )
        results["rows"] = saved["rows"]
    known = {entry["name"]: entry for entry in results["rows"]}
    for name in known.keys() - {row.name for row in rows}:
        raise UserError(f"{path} contains the row {name!r}, which this experiment does not have; remove the file")
    for row in rows:
        config = json.loads(json.dumps(row.config))
        entry = known.get(row.name)
        if entry is not None and entry["config"] != config:
            changed = [k for k in config.keys() | entry["config"].keys() if entry["config"].get(k) != config.get(k)]
            raise UserError(
                f"{path} measured the row {row.name!r} with another config ({', '.join(sorted(changed))}); "
                "use another --results, or remove the file to measure again"
            )
        if entry is None:
            entry = {"name": row.name, "config": config, "measured": {}, "runs": {}}
            known[row.name] = entry
        entry.update(paper=dict(row.paper), quoted=row.quoted)
    results["rows"] = [known[row.name] for row in rows]
    return results


def fill(
    path: pathlib.Path,
    about: Mapping[str, Any],
    rows: Sequence[Row],
    seeds: int,
    measure: Callable[[Row, int], Outcome],
) -> Results:
    """Measure every (row, seed) that the file lacks, for seeds 1 … `seeds`; the file is saved after each run."""
    results = start(path, about, rows)
    entries = {entry["name"]: entry for entry in results["rows"]}
    runs = [(seed, row) for seed in range(1, seeds + 1) for row in rows if not row.quoted]
    for seed, row in sorted(runs, key=lambda run: run[1].seeds > 0):  # rows with a limited number of seeds come last
        entry = entries[row.name]
        if str(seed) in entry["runs"] or 0 < row.seeds < seed:
            continue
        outcome = measure(row, seed)
        measured = {name: value._asdict() for name, value in outcome.measured.items()}
        entry["runs"][str(seed)] = {"measured": measured, "curves": dict(outcome.curves)}
        entry["measured"] = summary(entry["runs"])
        write(path, to_json(results))
        print(f"{about['experiment']}: {row.name}, seed {seed}: {in_words(entry['measured'])}", flush=True)
    write(path, to_json(results))
    return results


def summary(runs: Mapping[str, Any]) -> dict[str, Any]:
    """Return {metric: {mean, standard_error, seeds, n, over_seeds, within_run}} of the runs of a row."""
    metrics: dict[str, Any] = {}
    for name in next(iter(runs.values()))["measured"]:
        found = [run["measured"][name] for run in runs.values()]
        means = [m["mean"] for m in found]
        errors = [m["standard_error"] for m in found if m["standard_error"] is not None]
        spread = float(np.std(means, ddof=1) / math.sqrt(len(means))) if len(means) > 1 else None
        within = float(np.mean(errors)) if errors else None
        parts = [e for e in (spread, within) if e is not None]
        metrics[name] = {
            "mean": float(np.mean(means)),
            "standard_error": math.hypot(*parts) if parts else None,
            "seeds": len(means),
            "n": found[0]["n"],
            "over_seeds": spread,
            "within_run": within,
        }
    return metrics


def to_json(results: Results) -> str:
    """Format results as JSON with flat lists and objects on one line."""
    text = json.dumps(results, indent=1, allow_nan=False, ensure_ascii=False)
    return re.sub(r"\[[^\[\]{}\"]*\]|\{[^\[\]{}]*\}", lambda found: re.sub(r"\s+", " ", found[0]), text) + "\n"


def write(path: pathlib.Path, text: str) -> None:
    """Write a file atomically: after a kill it has the old or the new content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".tmp")
    scratch.write_text(text, "utf-8")
    os.replace(scratch, path)


def problems(results: Any) -> list[str]:
    """List everything that is missing or wrong in results read from a file."""
    found = [
        f"{name} is missing" for name in ("experiment", "scale", "hardware", "data", "command") if not results.get(name)
    ]
    if results.get("scale") not in SCALES:
        found.append(f"scale={results.get('scale')!r} is not one of {SCALES}")
    if not results.get("rows"):
        found.append("there are no rows")
    for entry in results.get("rows", []):
        where = f"row {entry.get('name')!r}"
        found += [f"{where} lacks {k}" for k in ("name", "config", "measured", "paper", "quoted") if k not in entry]
        if not entry.get("quoted") and not entry.get("measured"):
            found.append(f"{where} is neither measured nor quoted")
        if entry.get("quoted") and entry.get("measured"):
            found.append(f"{where} is quoted, so it cannot be measured")
        for name, value in entry.get("measured", {}).items():
            found += [f"{where}, {name} lacks {k}" for k in ("mean", "standard_error", "seeds", "n") if k not in value]
            if not math.isfinite(value.get("mean", math.nan)):
                found.append(f"{where}, {name} is not finite")
    return found


def arguments(name: str, about: str) -> argparse.Namespace:
    """Parse --mini, --seeds, --workdir and --results."""
    parser = argparse.ArgumentParser(f"python -m {module(name)}", description=about)
    parser.add_argument("--mini", action="store_true", help="small version: minutes on two cores")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, starting at 1 (default 3)")
    parser.add_argument("--workdir", default=str(HERE / "workdirs"), help="directory of trained models")
    parser.add_argument("--results", default=str(HERE / "results"), help="directory of JSON, table and figure")
    return parser.parse_args()


def module(name: str) -> str:
    """Return the module that runs, such as 'experiments.ddpm.iddpm_nll', or that of a name outside a command line."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    running = spec.name.removesuffix(".__main__") if spec else ""
    return running if running.startswith("experiments.") else f"experiments.{name}"


def hardware() -> str:
    """Describe the hardware, such as '2 × cpu (cpu), 2 cores'."""
    device = jax.devices()[0]
    return f"{jax.device_count()} × {device.device_kind} ({device.platform}), {os.cpu_count()} cores"


class Experiment(NamedTuple):
    """An experiment: the rows of a scale, the measurement of one row, and the figure of all rows."""

    name: str
    title: str
    notes: str
    data: Callable[[str], str]  # scale → data with its version
    rows: Callable[[str], list[Row]]
    measure: Callable[[Row, int, epath.Path], Outcome]  # (row, seed, directory of trained models)
    plot: Callable[[Results], Figure]


def symlog(axes: Axes, linear: float, where: str = "right") -> None:
    """Set a y axis that is linear up to ±`linear` and logarithmic beyond, and mark the linear part.

    where: the side of the axes with the label, 'left' or 'right'.
    """
    axes.set_yscale("symlog", linthresh=linear)
    axes.axhspan(-linear, linear, color="0.92", zorder=0)
    x = 0.99 if where == "right" else 0.01
    place = axes.get_yaxis_transform()
    axes.text(x, 0.97 * linear, f"linear below {linear:g}", transform=place, ha=where, va="top", color="0.4", size=8)


def main(experiment: Experiment, batch_size: int = 64) -> None:
    """Measure the rows and write the table and the figure; a UserError is printed and exits with status 2."""
    flags = arguments(experiment.name, experiment.title)
    devices.use_cpu_cores(batch_size)
    scale = "mini" if flags.mini else "paper"
    path = pathlib.Path(flags.results) / f"{experiment.name}.json"
    workdir = epath.Path(flags.workdir)
    try:
        about = {
            "experiment": experiment.name,
            "scale": scale,
            "hardware": hardware(),
            "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
            "data": experiment.data(scale),
            "command": f"python -m {module(experiment.name)}{' --mini' * flags.mini} --seeds={flags.seeds}",
        }
        measure = lambda row, seed: experiment.measure(row, seed, workdir)
        results = fill(path, about, experiment.rows(scale), flags.seeds, measure)
    except UserError as error:
        print(f"experiments.{experiment.name}: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
    write(path.with_suffix(".md"), markdown(results, experiment.title, experiment.notes))
    save_figure(epath.Path(path.with_suffix(".png")), experiment.plot(results))
    print(f"written: {path}, {path.with_suffix('.md').name}, {path.with_suffix('.png').name}")
