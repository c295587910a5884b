"""A trained CLIP in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict, FrozenConfigDict

from vdm_jax.api import batches, inputs, outputs, programs
from vdm_jax.api.programs import PROGRAMS, Program, Rows
from vdm_jax.conditioning.text import NAME as TEXT
from vdm_jax.conditioning.text import Text, from_config
from vdm_jax.contrastive import zero_shot
from vdm_jax.core.method import Method
from vdm_jax.errors import UserError
from vdm_jax.methods import clip
from vdm_jax.networks.clip import normalized


class TextStates(NamedTuple):
    """What the text tower computes of captions.

    Attributes:
        embedding: [N, E], each of norm 1.
        tokens: The states of all tokens behind the last norm, [N, context, W].
        mask: bool [N, context], True for tokens, False for padding.
    """

    embedding: np.ndarray
    tokens: np.ndarray
    mask: np.ndarray


class ClipModel(NamedTuple):
    """A CLIP with its parameters. Images are integer values [N, H, W, C]; a noised CLIP sees them at its first level.

    Attributes:
        config: The config of the run, or of published weights.
        method: The functions of the method.
        params: The parameters, averaged if `evaluation.weights` is 'ema'.
        step: The training step of the parameters.
    """

    config: ConfigDict
    method: Method
    params: Any
    step: int

    def __repr__(self) -> str:
        return outputs.description(self.config, self.params, self.step)

    @property
    def logit_scale(self) -> float:
        """The learned inverse temperature, by which cosines are multiplied."""
        return float(jnp.exp(self.params["network"]["log_scale"]))

    def encode_image(self, images: np.ndarray, *, batch_size: int | None = None, progress: bool = True) -> np.ndarray:
        """Return embeddings of images, [N, E], each of norm 1.

        Args:
            images: Integer values [N, H, W, C].
            batch_size: The most examples that are computed at once; None for `evaluation.batch_size`.
            progress: Show a progress bar when there are several batches.

        Raises:
            UserError: The images do not have the shape or the values of the model's data.
        """
        x = inputs.images(self.config, images)
        return self._run(_images(self._key, self.method.init), {"x": x}, len(x), batch_size, progress)

    def encode_text(
        self, captions: str | Sequence[str], *, batch_size: int | None = None, progress: bool = True
    ) -> TextStates:
        """Return embeddings of captions and the states of their tokens.

        Args:
            captions: One caption or several; tokens beyond the model's context are cut.
            batch_size: The most examples that are computed at once; None for `evaluation.batch_size`.
            progress: Show a progress bar when there are several batches.

        Raises:
            UserError: There are no captions, one is not a string, or the tokenizer is missing.
        """
        ids = self._text.ids(_captions(captions))
        found = self._run(_texts(self._key, self.method.init), {TEXT: ids}, len(ids), batch_size, progress)
        return TextStates(*found)

    def similarity(self, images: np.ndarray, captions: str | Sequence[str], **how: Any) -> np.ndarray:
        """Return the cosines of images and captions, [N, M].

        Args:
            images: Integer values [N, H, W, C].
            captions: One caption or M of them.
            how: batch_size and progress, as for `encode_image`.
        """
        return self.encode_image(images, **how) @ self.encode_text(captions, **how).embedding.T

    def classify(
        self, images: np.ndarray, prompts: Sequence[str], *, templates: Sequence[str] = ("{}",), **how: Any
    ) -> np.ndarray:
        """Return the probabilities of classes, softmax(logit_scale · cosine), [N, K].

        Args:
            images: Integer values [N, H, W, C].
            prompts: A caption or name of each of K classes.
            templates: Texts in which {} is replaced by each of `prompts`; the embeddings of a class are averaged.
            how: batch_size and progress, as for `encode_image`.
        """
        made = zero_shot.prompts(prompts, templates)
        text = self.encode_text(made.texts(), **how).embedding
        classes = np.asarray(zero_shot.class_embeddings(jnp.asarray(text), len(made.classes)))
        logits = self.logit_scale * self.encode_image(images, **how) @ classes.T
        return np.asarray(jax.nn.softmax(jnp.asarray(logits), axis=-1))

    @property
    def _key(self) -> FrozenConfigDict:
        return FrozenConfigDict(self.config)

    @property
    def _text(self) -> Text:
        made = from_config(self.config)
        assert made is not None
        return made

    def _run(self, program: Program, rows: Rows, count: int, batch_size: int | None, progress: bool) -> Any:
        how = batches.batching(batch_size, self.config.evaluation.batch_size, progress)
        (found,) = batches.run(program, self.params, [None], rows, count, how)
        return found


def _captions(given: str | Sequence[str]) -> list[str]:
    captions = [given] if isinstance(given, str) else list(given)
    if not captions or not all(isinstance(each, str) for each in captions):
        raise UserError("captions must be a string or a list of at least one string")
    return captions


@lru_cache(maxsize=PROGRAMS)
def _model(config: FrozenConfigDict) -> clip.Contrastive:
    return clip.model(ConfigDict(config))


@lru_cache(maxsize=PROGRAMS)
def _images(config: FrozenConfigDict, init: programs.Init) -> Program:
    """Return the program of images: (params, None, rows 'x') → embeddings [b, E]."""
    made = _model(config)

    def run(params: Any, shared: None, rows: Rows) -> Array:
        index = None if made.table is None else jnp.zeros(len(rows["x"]), jnp.int32)
        return made.image_embeddings(params, made.encode(rows["x"]), index)

    return jax.jit(run)


@lru_cache(maxsize=PROGRAMS)
def _texts(config: FrozenConfigDict, init: programs.Init) -> Program:
    """Return the program of captions: (params, None, rows 'text') → embeddings, states and mask of their tokens."""
    made = _model(config)

    def run(params: Any, shared: None, rows: Rows) -> tuple[Array, Array, Array]:
        found = made.text_states(params, rows[TEXT])
        return normalized(found.embedding), found.tokens.states, found.tokens.mask

    return jax.jit(run)
