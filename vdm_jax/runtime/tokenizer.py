"""The tokenizer of a run: trained on its captions before the first step, and kept in its working directory."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from vdm_jax import data, text
from vdm_jax.conditioning.text import read_tokenizer
from vdm_jax.data.captioning import texts_of
from vdm_jax.errors import UserError

FILE = "tokenizer.json"
_CAPTIONS = 20_000  # examples whose captions train and check a tokenizer


def located(config: ConfigDict, *places: epath.Path | None) -> ConfigDict:
    """Set an empty `data.tokenizer_path` to the tokenizer of the first working directory that has one.

    Args:
        config: A config; it is not changed.
        places: Working directories. If none of them has a tokenizer, the path is that of the first directory.
    """
    if not _trained(config) or config.data.tokenizer_path:
        return config
    files = [place / FILE for place in places if place is not None]
    if not files:
        return config
    found = config.copy_and_resolve_references()
    found.data.tokenizer_path = str(next((file for file in files if file.exists()), files[0]))
    return found


def unlocated(config: ConfigDict, directory: epath.Path) -> ConfigDict:
    """Return the config to save in a directory: without the path of the directory's own tokenizer."""
    if not _trained(config) or config.data.tokenizer_path != str(directory / FILE):
        return config
    saved = config.copy_and_resolve_references()
    saved.data.tokenizer_path = ""
    return saved


def _trained(config: ConfigDict) -> bool:
    return config.data.get("tokenizer") == "bpe"


def ensure(config: ConfigDict, dataset: data.Dataset, directory: epath.Path) -> str:
    """Train the tokenizer of a run if it has none yet, and store it in the directory.

    Process 0 trains and writes it, and the others wait.

    Args:
        config: The config, with the path of the tokenizer.
        dataset: The training data.
        directory: The working directory.

    Returns:
        A line for the banner with the tokenizer and the share of truncated captions; '' for a model without text.

    Raises:
        UserError: The tokenizer cannot be read or trained, or has more tokens than the network's table.
    """
    if "context" not in config.model:
        return ""
    rows = np.unique(np.linspace(0, len(dataset.source) - 1, min(_CAPTIONS, len(dataset.source))).astype(int))
    captions = [caption for several in texts_of(dataset.source, rows.tolist()) for caption in several]
    path, own = config.data.tokenizer_path, directory / FILE
    if _trained(config) and not own.exists():
        if jax.process_index() == 0:
            given = epath.Path(path)
            made = text.load(path, "bpe") if given.exists() else text.train_bpe(captions, config.model.vocabulary)
            directory.mkdir(parents=True, exist_ok=True)
            made.save(str(own))
        multihost_utils.sync_global_devices("vdm_jax: the tokenizer is written")
        if not own.exists():
            raise UserError(f"process {jax.process_index()} does not see {own}; all processes need the same --workdir")
    found = read_tokenizer(config.data.tokenizer, path or str(own), config.model.vocabulary)
    return f"tokenizer   {_words(found, captions, config.model.context)}"


def _words(tokenizer: Any, captions: list[str], context: int) -> str:
    truncated = tokenizer.encode(captions, context).truncated
    what = f"{truncated:,} of {len(captions):,} captions have more than {context} tokens and are truncated"
    return f"{tokenizer.kind}, {tokenizer.vocabulary:,} tokens ({tokenizer.digest}); {what}"
