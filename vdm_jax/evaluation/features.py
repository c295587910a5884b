"""Features for the quality of small images: the penultimate layer of a small classifier that is trained here.

Distances in these features are named after the data set of the classifier ("Fréchet distance in the features of a
small Fashion-MNIST classifier") and never FID, which requires the features of one specific Inception network. They
are comparable only with distances in the same features.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from jax import Array

from vdm_jax import data
from vdm_jax.diffusion.decoders import encode
from vdm_jax.errors import UserError
from vdm_jax.networks.conv import Conv
from vdm_jax.networks.layers import GroupNorm
from vdm_jax.optimizer import promoting

EXTRACT_BATCH = 250
TITLES = {"fashion_mnist": "Fashion-MNIST", "mnist": "MNIST", "cifar10": "CIFAR-10"}


class Settings(NamedTuple):
    """The hyperparameters of a classifier.

    Test accuracy with the defaults: .997 on digits, .982 on MNIST (less than half an epoch); with 600 steps .876 on
    Fashion-MNIST. Each takes about a minute on one core.
    """

    width: int = 32
    features: int = 32
    classes: int = 10
    steps: int = 400
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-3
    seed: int = 0


class Network(nn.Module):
    """A convolution at full resolution, strided convolutions down to about 2 × 2 pixels, and two dense layers."""

    settings: Settings

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Return features [B, F] and logits [B, classes] of images x [B, H, W, C] in [−1, 1]."""
        width, halvings = self.settings.width, math.ceil(math.log2(max(x.shape[1:3]) / 2))
        for k in range(1 + halvings):
            x = Conv(width * min(2**k, 2), stride=min(k + 1, 2), name=f"conv{k}")(x)
            x = nn.swish(GroupNorm(4, name=f"norm{k}")(x))
        h = nn.swish(nn.Dense(self.settings.features, name="features")(jnp.mean(x, (1, 2))))
        return h, nn.Dense(self.settings.classes, name="logits")(h)


class Classifier(NamedTuple):
    """A trained classifier.

    Attributes:
      params: the parameters of `Network`.
      settings: the hyperparameters.
      vocabulary: the number of values of a pixel.
      about: settings, data, accuracy on the test split and the number of its images.
    """

    params: Any
    settings: Settings
    vocabulary: int
    about: dict[str, Any]

    @property
    def title(self) -> str:
        """The name of a Fréchet distance in the features of this classifier."""
        name = self.about["dataset"]
        return f"Fréchet distance in the features of a small {TITLES.get(name, name)} classifier"


def classifier(
    workdir: epath.Path,
    name: str,
    *,
    path: str = "",
    shape: Sequence[int] | None = None,
    vocabulary: int | None = None,
    settings: Settings | None = None,
) -> Classifier:
    """Load the classifier of a labeled data set from `workdir`, or train it and save it there.

    The same settings and data result in the same classifier.

    Args:
      workdir: the directory of the classifier's file.
      name: the data set, as for `data.load`.
      path: as for `data.load`.
      shape: as for `data.load`.
      vocabulary: as for `data.load`.
      settings: the hyperparameters; None for the defaults.

    Raises:
      UserError: the data has no labels, or the file cannot be read.
    """
    settings = settings or Settings()
    train, test = (data.load(name, split, path=path, shape=shape, vocabulary=vocabulary) for split in ("train", "test"))
    if train.vocabulary is None or "label" not in train.source[0] or "label" not in test.source[0]:
        raise UserError(
            f"{name} ({train.version}) has no labeled images, which a classifier needs; choose another data set"
        )
    about: dict[str, Any] = {"settings": settings._asdict(), "dataset": train.name, "version": train.version}
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
    file = workdir / f"classifier-{train.name}-{digest}.npz"
    like = jax.eval_shape(partial(_init, settings, train.shape))
    if file.exists():
        params, saved = _load(file, like)
        return Classifier(params, settings, train.vocabulary, saved)
    params = _fit(train, settings)
    trained = Classifier(params, settings, train.vocabulary, about)
    about |= {"accuracy": accuracy(trained, test), "test_images": test.num_examples}
    _save(file, params, about)
    return trained


def _init(settings: Settings, shape: tuple[int, ...]) -> Any:
    return Network(settings).init(jax.random.key(settings.seed), jnp.zeros((1, *shape)))["params"]


def _fit(dataset: data.Dataset, settings: Settings) -> Any:
    """Train by AdamW on the cross-entropy with cosine decay and return the parameters."""
    network = Network(settings)
    rate = optax.cosine_decay_schedule(settings.learning_rate, settings.steps)
    optimizer = promoting(optax.adamw(rate, weight_decay=settings.weight_decay))

    def loss(params: Any, image: Array, label: Array) -> Array:
        _, logits = network.apply({"params": params}, encode(image, dataset.vocabulary))
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, label))

    @jax.jit
    def step(params: Any, state: Any, image: Array, label: Array) -> tuple[Any, Any]:
        updates, state = optimizer.update(jax.grad(loss)(params, image, label), state, params)
        return optax.apply_updates(params, updates), state

    params = _init(settings, dataset.shape)
    state = optimizer.init(params)
    batches = data.train_iterator(dataset, seed=settings.seed, batch_size=settings.batch_size)
    for _, batch in zip(range(settings.steps), batches, strict=False):
        if not 0 <= batch["label"].min() <= batch["label"].max() < settings.classes:
            raise UserError(f"{dataset.name} has labels outside 0 … {settings.classes - 1}; set the number of classes")
        params, state = step(params, state, batch["image"], batch["label"])
    return params


@partial(jax.jit, static_argnums=(0, 1))
def _apply(settings: Settings, vocabulary: int, params: Any, image: Array) -> Any:
    return Network(settings).apply({"params": params}, encode(image, vocabulary))


def extract(classifier: Classifier, images: np.ndarray) -> np.ndarray:
    """Return features float64 [N, F] of images [N, H, W, C] with values 0 … V − 1."""
    return _outputs(classifier, images)[0].astype(np.float64)


def labels(classifier: Classifier, images: np.ndarray) -> np.ndarray:
    """Return the most likely labels, int [N], of images [N, H, W, C] with values 0 … V − 1."""
    likely: np.ndarray = _outputs(classifier, images)[1].argmax(-1)
    return likely


def _outputs(classifier: Classifier, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (features, logits); the last batch is padded, so that only one size is compiled."""
    parts = []
    for first in range(0, len(images), EXTRACT_BATCH):
        part = images[first : first + EXTRACT_BATCH]
        padded = np.concatenate([part, np.zeros((EXTRACT_BATCH - len(part), *part.shape[1:]), part.dtype)])
        values = jax.device_get(_apply(classifier.settings, classifier.vocabulary, classifier.params, padded))
        parts.append([v[: len(part)] for v in values])
    features, logits = zip(*parts, strict=True)
    return np.concatenate(features), np.concatenate(logits)


def images_and_labels(dataset: data.Dataset, count: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the first `count` images (0: all), uint8 [N, H, W, C], and their labels [N]."""
    records = [dataset.source[k] for k in range(min(count or dataset.num_examples, dataset.num_examples))]
    return np.stack([r["image"] for r in records]), np.array([r["label"] for r in records])


def accuracy(classifier: Classifier, dataset: data.Dataset) -> float:
    """Return the share of images whose most likely label is correct."""
    images, true = images_and_labels(dataset)
    return float(np.mean(labels(classifier, images) == true))


def _save(file: epath.Path, params: Any, about: dict[str, Any]) -> None:
    """Write a classifier atomically."""
    buffer = io.BytesIO()
    np.savez(buffer, about=json.dumps(about), **_flat(params))
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.parent / (file.name + ".tmp")
    scratch.write_bytes(buffer.getvalue())
    scratch.replace(file)


def _load(file: epath.Path, like: Any) -> tuple[Any, dict[str, Any]]:
    try:
        with file.open("rb") as stream:
            arrays = np.load(stream, allow_pickle=False)
            flat = {name: jnp.asarray(arrays[name]) for name in _flat(like)}
            about: dict[str, Any] = json.loads(str(arrays["about"]))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{file} is not a complete classifier ({error}); remove it, and it will be trained again"
        ) from error
    return jax.tree.unflatten(jax.tree.structure(like), flat.values()), about


def _flat(params: Any) -> dict[str, Any]:
    """Return the leaves by path, in the order of jax.tree.leaves."""
    pairs = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in pairs}
