"""Evaluators of CLIP: retrieval, by noise level for a noised CLIP, and zero-shot classification."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from vdm_jax.conditioning.label import NAME as LABEL
from vdm_jax.conditioning.text import NAME as TEXT
from vdm_jax.conditioning.text import SAME
from vdm_jax.conditioning.text import from_config as text_condition
from vdm_jax.contrastive import retrieval as metrics
from vdm_jax.contrastive import zero_shot
from vdm_jax.core.method import PREPARED, Batch, Collected, Params, Terms
from vdm_jax.networks import clip as networks

if TYPE_CHECKING:
    from vdm_jax.methods.clip import Contrastive

_MOST_PROMPTS = 256  # prompts that are embedded at once


def retrieval(model: Contrastive, config: ConfigDict) -> Collected:
    """Return the evaluator of retrieval, for a noised CLIP by level."""
    section = config.evaluation
    levels = None if model.table is None else np.linspace(0, model.table.num_levels - 1, section.levels).astype(int)

    def outputs(params: Params, batch: Batch, keys: Array) -> Terms:
        images, count = model.encode(batch["x"]), len(batch["x"])
        if levels is None:
            image = model.image_embeddings(params, images)[:, None]
        else:
            each = lambda index: jnp.full((count,), index, jnp.int32)
            at = lambda index: model.image_embeddings(params, model.noised(images, keys, each(index)), each(index))
            image = jnp.moveaxis(jax.lax.map(at, jnp.asarray(levels)), 0, 1)
        return {
            "image": image,
            "text": networks.normalized(model.text_states(params, batch["cond"][TEXT]).embedding),
            "same": batch["cond"][SAME],
            "log_scale": jnp.broadcast_to(params["network"]["log_scale"], (count,)),
        }

    def summarize(values: dict[str, np.ndarray]) -> dict[str, Any]:
        measured = [
            metrics.summarize(
                image=values["image"][:, k],
                text=values["text"],
                same=values["same"],
                log_scale=float(values["log_scale"][0]),
                candidates=section.candidates,
                count=section.draws,
                seed=section.seed,
            )
            for k in range(values["image"].shape[1])
        ]
        if levels is None or model.table is None:
            return measured[0]
        total = model.table.num_levels
        rows = [{"t": float((k + 1) / total), **row} for k, row in zip(levels, measured, strict=True)]
        return {**measured[0], "by_level": rows}

    return Collected("retrieval", outputs, summarize, metrics.words)


def classification(model: Contrastive, config: ConfigDict, prompts: zero_shot.Prompts) -> Collected:
    """Return the evaluator of zero-shot classification with these prompts."""
    text = text_condition(config)
    assert text is not None
    ids, classes = text.ids(prompts.texts()), len(prompts.classes)

    def prepare(params: Params) -> Array:
        embed = lambda row: networks.normalized(model.text_states(params, row[None]).embedding)[0]
        return zero_shot.class_embeddings(jax.lax.map(embed, jnp.asarray(ids), batch_size=_MOST_PROMPTS), classes)

    def outputs(params: Params, batch: Batch, keys: Array) -> Terms:
        images = model.encode(batch["x"])
        index = None if model.table is None else jnp.zeros(len(images), jnp.int32)
        similarity = model.image_embeddings(params, images, index) @ params[PREPARED].T
        label = batch["cond"][LABEL]
        own = jnp.take_along_axis(similarity, label[:, None], axis=1)
        return {"rank": jnp.sum(similarity >= own, axis=1) - 1, "label": label}

    summarize = lambda values: zero_shot.summarize(values["rank"], values["label"], prompts)
    return Collected("zero_shot", outputs, summarize, zero_shot.words, prepare)
