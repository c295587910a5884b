"""Retrieval of held-out emoji: a text transformer against the mean of word embeddings, with the same image tower.

    python -m experiments.clip.emoji --mini --seeds=3

The emoji for testing have base emoji that training never shows in any form. Rows without flags leave out the pictures
of flags, whose names are those of countries that training never names.
"""

from __future__ import annotations

import numpy as np
from etils import epath
from matplotlib.figure import Figure

from experiments import common, models
from experiments.clip import small
from experiments.common import Measured, Outcome, Results, Row
from vdm_jax import data
from vdm_jax.api.clip import ClipModel
from vdm_jax.contrastive import retrieval

FILE = "configs/clip_emoji.py"
STEPS = {"mini": 300, "paper": 6000}
TOWERS = {"transformer": {}, "mean of word embeddings": {"model.text_depth": 0}}
METRICS = ("image_to_text_at_1", "image_to_text_at_5", "text_to_image_at_1", "text_to_image_at_5")
SHOWN, NEAREST = 10, 3


def rows(scale: str) -> list[Row]:
    steps = {"training.num_steps": STEPS[scale], "training.checkpoint_every": STEPS[scale]}
    return [Row(name, models.identity(FILE, {**steps, **changes})) for name, changes in TOWERS.items()]


def measure(row: Row, seed: int, workdir: epath.Path) -> Outcome:
    config = models.load_config(FILE, {**row.config["overrides"], "training.seed": seed})
    trained = small.trained(config, workdir)
    model = ClipModel(trained.config, trained.method, trained.params, config.training.num_steps)
    dataset = data.from_section(config.data, "test")
    records = [dataset.source[k] for k in range(dataset.num_examples)]
    captions, images = [record["caption"] for record in records], np.stack([record["image"] for record in records])
    flags = np.array([bool(record["flag"]) for record in records])
    image = model.encode_image(images, progress=False)
    text = model.encode_text(captions, progress=False).embedding
    found: dict[str, Measured] = {}
    for what, chosen in (("", np.arange(len(records))), (", without flags", np.flatnonzero(~flags))):
        recalls = retrieval.recalls(image[chosen], text[chosen], chosen)
        for name in METRICS:
            share, count = recalls[name], len(chosen)
            error = float(np.sqrt(share * (1 - share) / (count - 1)))
            found[f"{name}{what}"] = Measured(share, error, count)
    found["chance at 1"] = Measured(1 / len(records))
    return Outcome(found, {"figure": shown(image, text, captions, flags)} if seed == 1 else {})


def shown(image: np.ndarray, text: np.ndarray, captions: list[str], flags: np.ndarray) -> dict[str, object]:
    """Return ten test pictures, evenly spread, with their nearest captions."""
    rows = np.flatnonzero(~flags)
    chosen = rows[np.linspace(0, len(rows) - 1, SHOWN).astype(int)]
    order = np.argsort(-image[chosen] @ text.T, axis=1)[:, :NEAREST]
    return {
        "index": chosen.tolist(),
        "caption": [captions[k] for k in chosen],
        "nearest": [[captions[k] for k in row] for row in order],
    }


def plot(results: Results) -> Figure:
    """Draw ten emoji with their nearest captions among those of the test split; the right one is green."""
    curves = results["rows"][0]["runs"]["1"]["curves"]["figure"]
    config = models.load_config(FILE, {})
    source = data.from_section(config.data, "test").source
    figure = Figure((10, 5))
    for axes, index, caption, nearest in zip(
        figure.subplots(2, SHOWN // 2).flat, curves["index"], curves["caption"], curves["nearest"], strict=True
    ):
        axes.imshow(source[index]["image"])
        axes.axis("off")
        for row, text in enumerate(nearest):
            short = text if len(text) < 30 else f"{text[:28]}…"
            color = "C2" if text == caption else "0.3"
            axes.text(
                0.5, -0.08 - 0.13 * row, short, transform=axes.transAxes, ha="center", va="top", size=8, color=color
            )
    figure.subplots_adjust(wspace=0.35, hspace=0.6, bottom=0.16, top=0.97)
    return figure


EXPERIMENT = common.Experiment(
    "clip_emoji",
    "CLIP on held-out emoji: a transformer against the mean of word embeddings",
    "Recall among all test pictures, whose base emoji training never shows. The figure is that of the transformer.",
    lambda scale: models.describe_data(models.load_config(FILE, {})),
    rows,
    measure,
    plot,
)

if __name__ == "__main__":
    common.main(EXPERIMENT, 256)
