"""Features for the quality of small images: the penultimate layer of a small classifier, trained here.

Distances in them are called by the data set that the classifier was trained on ("Fréchet distance in the features
of a small Fashion-MNIST classifier"), never FID, which is a distance in the features of one certain
Inception network. They compare with other distances in the same features, and with nothing else.
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

EXTRACT_BATCH = 250
TITLES = {"fashion_mnist": "Fashion-MNIST", "mnist": "MNIST", "cifar10": "CIFAR-10"}


class Settings(NamedTuple):
    """What decides a classifier besides its data.

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
    """A convolution at full size, more of stride 2 until two pixels a side are left, and two dense layers."""

    settings: Settings

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """x: [B, H, W, C] in [−1, 1] → features [B, F], logits [B, classes]."""
        width, halvings = self.settings.width, math.ceil(math.log2(max(x.shape[1:3]) / 2))
        for k in range(1 + halvings):
            x = Conv(width * min(2**k, 2), stride=min(k + 1, 2), name=f"conv{k}")(x)
            x = nn.swish(GroupNorm(4, name=f"norm{k}")(x))
        h = nn.swish(nn.Dense(self.settings.features, name="features")(jnp.mean(x, (1, 2))))
        return h, nn.Dense(self.settings.classes, name="logits")(h)


class Classifier(NamedTuple):
    """A trained classifier. about: settings, data, accuracy on the test split and the number of its images."""

    params: Any
    settings: Settings
    vocabulary: int
    about: dict[str, Any]

    @property
    def title(self) -> str:
        """What a distance in its features is called."""
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
    """The classifier of a labelled data set of `vdm_jax.data`, from `workdir` or trained and kept there.

    name, path, shape, vocabulary: as for `data.load`. The same settings and data give the same classifier. Raises
    UserError for data without labels.
    """
    settings = settings or Settings()
    train, test = (data.load(name, split, path=path, shape=shape, vocabulary=vocabulary) for split in ("train", "test"))
    if train.vocabulary is None or "label" not in train.source[0] or "label" not in test.source[0]:
        raise UserError(
            f"{name} ({train.version}) has no images with labels, which a classifier needs; choose other data"
        )
    about: dict[str, Any] = {"settings": settings._asdict(), "dataset": train.name, "version": train.version}
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
    file = workdir / f"classifier-{train.name}-{digest}.npz"
    like = jax.eval_shape(partial(_init, settings, train.shape))
    if file.exists():
        params, saved = _load(file, like)
        return Classifier(params, settings, train.vocabulary, saved)
    params = _fit(train, settings)
    found = Classifier(params, settings, train.vocabulary, about)
    about |= {"accuracy": accuracy(found, test), "test_images": test.num_examples}
    _save(file, params, about)
    return found


def _init(settings: Settings, shape: tuple[int, ...]) -> Any:
    return Network(settings).init(jax.random.key(settings.seed), jnp.zeros((1, *shape)))["params"]


def _fit(dataset: data.Dataset, settings: Settings) -> Any:
    """Parameters after `steps` of AdamW on the cross-entropy, the rate falling as a half cosine."""
    network = Network(settings)
    rate = optax.cosine_decay_schedule(settings.learning_rate, settings.steps)
    optimizer = optax.adamw(rate, weight_decay=settings.weight_decay)

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
    """Features float64 [N, F] of images [N, H, W, C] of levels 0 … V − 1."""
    return _outputs(classifier, images)[0].astype(np.float64)


def labels(classifier: Classifier, images: np.ndarray) -> np.ndarray:
    """The most likely label, int [N], of images as for `extract`."""
    found: np.ndarray = _outputs(classifier, images)[1].argmax(-1)
    return found


def _outputs(classifier: Classifier, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(features, logits); the last batch is padded, so that one size is compiled."""
    parts = []
    for first in range(0, len(images), EXTRACT_BATCH):
        part = images[first : first + EXTRACT_BATCH]
        padded = np.concatenate([part, np.zeros((EXTRACT_BATCH - len(part), *part.shape[1:]), part.dtype)])
        values = jax.device_get(_apply(classifier.settings, classifier.vocabulary, classifier.params, padded))
        parts.append([v[: len(part)] for v in values])
    features, logits = zip(*parts, strict=True)
    return np.concatenate(features), np.concatenate(logits)


def images_and_labels(dataset: data.Dataset, count: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` images (0: all) uint8 [N, H, W, C] and their labels [N], in memory."""
    records = [dataset.source[k] for k in range(min(count or dataset.num_examples, dataset.num_examples))]
    return np.stack([r["image"] for r in records]), np.array([r["label"] for r in records])


def accuracy(classifier: Classifier, dataset: data.Dataset) -> float:
    """The share of images whose largest logit is their label's."""
    images, true = images_and_labels(dataset)
    return float(np.mean(labels(classifier, images) == true))


def _save(file: epath.Path, params: Any, about: dict[str, Any]) -> None:
    """In one replacement: a file that is there is whole."""
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
            f"{file} is not a whole classifier ({error}); remove it, and it will be trained again"
        ) from error
    return jax.tree.unflatten(jax.tree.structure(like), flat.values()), about


def _flat(params: Any) -> dict[str, Any]:
    """Leaves by path, in the order of jax.tree.leaves."""
    found = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in found}
