"""CLIP (Radford et al. 2021, arXiv:2103.00020), and the CLIP of noised images that guides GLIDE (Nichol et al. 2021).

An image tower and a text tower map images and captions to vectors of norm 1. The loss is the symmetric InfoNCE over the
global batch with a learned temperature, whose log scale is projected to at most ln 100 after each update. A noised CLIP
sees z_t and the index of its level in a table of its own. CLIP draws no samples and has no likelihood; an evaluation
measures retrieval, or zero-shot classification.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from vdm_jax import conditioning
from vdm_jax.conditioning.label import Label
from vdm_jax.conditioning.text import NAME as TEXT
from vdm_jax.conditioning.text import SAME, SameCaption
from vdm_jax.contrastive import infonce, zero_shot
from vdm_jax.core.method import STATE, Batch, Context, Coupling, Method, Params, Phase, Terms
from vdm_jax.diffusion import decoders, tables
from vdm_jax.diffusion.process import q_sample
from vdm_jax.gaussian.discrete import uniform_levels
from vdm_jax.keys import normal_like
from vdm_jax.methods import clip_evaluation, clip_fields
from vdm_jax.networks import clip as networks

# The purposes that keys are folded with; each has an independent stream of random numbers.
LEVEL, NOISE = range(2)
# Weight decay applies to all weights that are not gains or biases (§2.5), which includes the tables of embeddings.
COMPONENTS = clip_fields.COMPONENTS
DECAYED = ("kernel", "tokens", "positions", "levels")


def settings(config: ConfigDict) -> networks.Settings:
    """Return the settings of both towers."""
    model, side, channels = config.model, config.data.shape[0], config.data.shape[-1]
    image: networks.ViT | networks.ResNet
    if model.network == "vit":
        levels = len(betas_of(config)) if model.noised else 0
        image = networks.ViT(side, model.patch, model.width, model.depth, model.heads, levels, model.stem)
    else:
        a, b, c, d = model.depths
        image = networks.ResNet(side, model.width, (a, b, c, d), max(model.width // 2, 1))
    pixels = {} if channels == 3 else {"mean": (0.5,) * channels, "std": (0.25,) * channels}
    return networks.Settings(
        embedding=model.embedding,
        image=image,
        text=networks.Text(model.text_width, model.text_depth, model.text_heads, model.vocabulary, model.context),
        gelu=model.gelu,
        key_bias=model.key_bias,
        dtype=jnp.dtype(model.dtype),
        remat=model.remat,
        unroll=model.unroll,
        **pixels,
    )


def betas_of(config: ConfigDict) -> np.ndarray:
    """Return β of all noise levels of a noised CLIP, float64 [T]."""
    return tables.betas(**config.schedule.to_dict())


def build(config: ConfigDict) -> Method:
    """Build a CLIP from a checked config."""
    made = model(config)
    if config.evaluation.task == "zero_shot":
        prompts = zero_shot.read(config.evaluation.prompts)
        label = Label(num_classes=len(prompts.classes))
        return Method(
            init=made.init,
            phases=(),
            conditions=(label,),
            evaluators=(clip_evaluation.classification(made, config, prompts),),
        )
    phase = Phase(
        "clip",
        ("network",),
        made.loss if made.has_statistics else made.coupling.whole,
        couples_batch=True,
        coupling=None if made.has_statistics else made.coupling,
        project=project,
        decayed=DECAYED,
    )
    return Method(
        init=made.init,
        phases=(phase,),
        conditions=(*conditioning.build(config), SameCaption()),
        evaluators=(clip_evaluation.retrieval(made, config),),
        describe=lambda params: {"logit_scale": jnp.exp(params["network"]["log_scale"])},
    )


def model(config: ConfigDict) -> Contrastive:
    """Return the model that `build` turns into a method."""
    noised = config.model.get("noised", False)
    return Contrastive(
        net=networks.CLIP(settings(config)),
        vocabulary=config.data.vocabulary,
        table=tables.from_betas(betas_of(config)) if noised else None,
        times=config.training.times if noised else "",
        mask_same=config.training.mask_same_captions,
    )


def project(params: Params, state: Any) -> Params:
    """Bound the temperature, and store the running statistics of a ResNet's batch norms, if there are any."""
    network = {**params["network"], "log_scale": infonce.projected(params["network"]["log_scale"])}
    return {**params, "network": network, **({"batch_stats": state} if state else {})}


class Contrastive(NamedTuple):
    """A CLIP. Its parameters are {'network': …}, and 'batch_stats' of a ResNet.

    Attributes:
        net: Both towers.
        vocabulary: The number of values of a pixel.
        table: The noise levels of a noised CLIP, or None.
        times: The distribution of levels in training, see `uniform_levels`.
        mask_same: Whether captions that mean the same are excluded from the negatives.
    """

    net: networks.CLIP
    vocabulary: int
    table: tables.Table | None
    times: str
    mask_same: bool

    @property
    def has_statistics(self) -> bool:
        """Whether the image tower has batch statistics, so that embeddings depend on the other images of a batch."""
        return isinstance(self.net.settings.image, networks.ResNet)

    @property
    def coupling(self) -> Coupling:
        """The loss in two halves; see `core.method.Coupling`."""
        return Coupling(self.embed, self.contrast)

    def init(self, key: Array) -> Params:
        """Initialize the parameters."""
        s = self.net.settings
        images = jnp.zeros((1, s.image.size, s.image.size, len(s.mean)))
        level = None if self.table is None else jnp.zeros(1, jnp.int32)
        made = self.net.init(key, images, jnp.zeros((1, s.text.context), jnp.int32), level)
        return {"network": made["params"], **({"batch_stats": made["batch_stats"]} if self.has_statistics else {})}

    def encode(self, x: Array) -> Array:
        """Map pixel values to [−1, 1], both ends included."""
        return decoders.encode_to_ends(x, self.vocabulary)

    def image_embeddings(self, params: Params, images: Array, index: Array | None = None) -> Array:
        """Embed images.

        Args:
            params: The parameters.
            images: [B, side, side, C] on [−1, 1]; for a noised CLIP the latents z_t.
            index: The index of the noise level of each image in the table of a noised CLIP, int [B].

        Returns:
            [B, E], each of norm 1.
        """
        found = self.net.apply(variables(params), images, index, method="encode_image")
        return networks.normalized(cast(Array, found))

    def text_states(self, params: Params, ids: Array) -> networks.TextOutput:
        """Encode captions int [B, context], −1 where they have ended: embeddings [B, E], not normalized, and states."""
        lengths = jnp.sum(ids >= 0, axis=1)
        found = self.net.apply(variables(params), jnp.maximum(ids, 0), lengths, method="encode_text")
        return cast(networks.TextOutput, found)

    def noised(self, images: Array, keys: Array, index: Array) -> Array:
        """Return z_t of images [B, …] on [−1, 1] at the levels `index` [B] of the table."""
        assert self.table is not None
        return q_sample(images, normal_like(keys, images.shape[1:], NOISE), self.table.level(index))

    def seen(self, batch: Batch, context: Context) -> tuple[Array, Array | None]:
        """Return what the image tower sees in training: images, or noised images and the indices of their levels."""
        images = self.encode(batch["x"])
        if self.table is None:
            return images, None
        index = uniform_levels(self.times, context, LEVEL, self.table.num_levels)
        return self.noised(images, context.keys, index), index

    def embed(self, params: Params, extra: Any, batch: Batch, context: Context) -> Mapping[str, Array]:
        """Return the embeddings 'image' and 'text' of norm 1, [b, E], and 't' = ℓ/T of a noised CLIP, [b]."""
        images, index = self.seen(batch, context)
        text = self.text_states(params, batch["cond"][TEXT]).embedding
        found = {"image": self.image_embeddings(params, images, index), "text": networks.normalized(text)}
        if self.table is not None and index is not None:
            found["t"] = (index + 1).astype(text.dtype) / self.table.num_levels
        return found

    def contrast(
        self, params: Params, extra: Any, embeddings: Mapping[str, Array], batch: Batch, context: Context
    ) -> tuple[Array, Terms]:
        """Return the symmetric InfoNCE loss [b] in nats, and aux: its halves, accuracies, and t of a noised CLIP."""
        same = batch["cond"][SAME] if self.mask_same else None
        scale = params["network"]["log_scale"]
        loss, *others = infonce.symmetric(
            embeddings["image"], embeddings["text"], scale, context.index, context.gather, same
        )
        names = infonce.Contrast._fields[1:]
        t = {"t": embeddings["t"]} if "t" in embeddings else {}
        return loss, {**dict(zip(names, others, strict=True)), **t}

    def loss(self, params: Params, extra: Any, batch: Batch, context: Context) -> tuple[Array, Terms]:
        """Return the loss of a CLIP with batch statistics, which are those of the global batch; see `contrast`."""
        ids = batch["cond"][TEXT]
        lengths = jnp.sum(ids >= 0, axis=1)
        found, state = self.net.apply(
            variables(params),
            self.encode(batch["x"]),
            jnp.maximum(ids, 0),
            None,
            lengths,
            train=True,
            axis_name=context.axis,
            mutable=["batch_stats"],
        )
        pair = {"image": found.image, "text": found.text}
        loss, aux = self.contrast(params, extra, pair, batch, context)
        return loss, {**aux, STATE: state["batch_stats"]}


def variables(params: Params) -> Params:
    """Return the variables of the network."""
    return {"params": params["network"]} | ({"batch_stats": params["batch_stats"]} if "batch_stats" in params else {})
