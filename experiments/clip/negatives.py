"""What the number of negatives is worth: retrieval of a small CLIP against its batch size, at equal examples.

    python -m experiments.clip.negatives --mini --seeds=1

Every row sees the same number of pairs of `shapes`, with the learning rate and warm-up in examples of `clip_shapes`, so
a larger batch has fewer steps and more negatives for each. Retrieval is measured among the same 256 captions.
"""

from __future__ import annotations

from etils import epath
from matplotlib.figure import Figure

from experiments import common, models
from experiments.clip import small
from experiments.common import Outcome, Results, Row

FILE = "configs/clip_shapes.py"
EXAMPLES = {"mini": 40_960, "paper": 1_024_000}
BATCHES = (16, 64, 256, 1024)
METRICS = ("image_to_text_at_1", "text_to_image_at_1")


def rows(scale: str) -> list[Row]:
    found = []
    for size in BATCHES:
        steps = EXAMPLES[scale] // size
        changes = {
            "data.batch_size": size,
            "training.num_steps": steps,
            "training.checkpoint_every": steps,
            "training.log_every": max(steps // 10, 1),
            "optimizer.warmup_steps": max(steps // 10, 1),
            "optimizer.learning_rate": 1e-3,
        }
        found.append(Row(f"batch {size:,}", models.identity(FILE, changes)))
    return found


def measure(row: Row, seed: int, workdir: epath.Path) -> Outcome:
    config = models.load_config(FILE, {**row.config["overrides"], "training.seed": seed})
    entry = small.retrieval(small.trained(config, workdir))
    return Outcome({name: small.measured(entry, name) for name in METRICS})


def plot(results: Results) -> Figure:
    figure = Figure((5, 3.5))
    axes = figure.subplots()
    sizes = [entry["config"]["overrides"]["data.batch_size"] for entry in results["rows"]]
    for name, label in zip(METRICS, ("image to caption", "caption to image"), strict=True):
        values = [entry["measured"][name] for entry in results["rows"]]
        errors = [value["standard_error"] or 0 for value in values]
        axes.errorbar(sizes, [value["mean"] for value in values], errors, marker="o", capsize=3, label=label)
    axes.axhline(1 / 256, color="gray", lw=1, ls=":", label="chance")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_xlabel("batch size (negatives of an example + 1)")
    axes.set_ylabel("recall@1 among 256")
    axes.legend()
    return figure


EXPERIMENT = common.Experiment(
    "clip_negatives",
    "CLIP: the number of negatives at equal examples",
    "All rows see the same number of pairs; a larger batch has fewer steps. One learning rate for all rows.",
    lambda scale: models.describe_data(models.load_config(FILE, {})),
    rows,
    measure,
    plot,
)

if __name__ == "__main__":
    common.main(EXPERIMENT, 1024)
