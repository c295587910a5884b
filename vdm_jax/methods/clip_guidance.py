"""Sampling guided by a noised CLIP (Nichol et al. 2021, arXiv:2112.10741, §2.4): the gradient of the cosine.

The CLIP has a table of noise levels of its own. A latent of any diffusion is matched to it by its SNR, see
`guidance.matched`. The gradient is that of exp(log_scale) ⟨image(z), text⟩ in z; it does not pass through the denoiser.
Ancestral steps of a table of levels shift their mean by s Σ ∇, and all other steps shift the score.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from vdm_jax.conditioning.text import Text
from vdm_jax.conditioning.text import from_config as text_condition
from vdm_jax.core.chain import Chain
from vdm_jax.core.method import Frozen, Method, Params
from vdm_jax.diffusion import guidance
from vdm_jax.diffusion.process import Noise
from vdm_jax.methods import clip, guided
from vdm_jax.networks.clip import normalized

CLIP, CAPTION = "clip", "caption"


def build(config: ConfigDict, guide: ConfigDict, scale: guidance.Weight | None = None) -> Method:
    """Build a diffusion whose samples are guided by a noised CLIP; see `of_clip`."""
    return guided.build(config, [of_clip(config, guide, scale)])


def of_clip(config: ConfigDict, guide: ConfigDict, scale: guidance.Weight | None = None) -> guided.Guide:
    """Return the guide of a noised CLIP.

    Args:
        config: The config of the diffusion.
        guide: The config of the CLIP.
        scale: The guidance scale s; None for `config.sampling.clip_scale`.
    """
    made, text = clip.model(guide), text_condition(guide)
    assert text is not None and made.table is not None
    table = made.table

    def gradient(params: Params, values: Mapping[str, Array]) -> guidance.Gradient:
        caption = normalized(made.text_states(params, values[CAPTION]).embedding)

        def log_p(z: Array, level: Noise) -> Array:
            index, rescaled = guidance.matched(z, level, table)
            image = made.image_embeddings(params, rescaled, index)
            return jnp.exp(params["network"]["log_scale"]) * jnp.sum(image * caption, axis=-1)

        return guidance.gradient_of(log_p)

    part = Frozen(
        what="a noised CLIP",
        field="sampling.clip_model",
        path=config.sampling.get("clip_model", ""),
        config=guide,
        init=made.init,
    )
    return guided.Guide(
        key=CLIP,
        gradient=gradient,
        scale=config.sampling.clip_scale if scale is None else scale,
        condition=Text(name=CAPTION, context=text.context, vocabulary=text.vocabulary, kind=text.kind, path=text.path),
        part=part,
    )


def clamped(chain: Chain, guide: ConfigDict) -> str:
    """Describe the steps of a sampler at noise levels beyond the table of a CLIP, which use its nearest level.

    Returns:
        A sentence, or '' if there are none.
    """
    table = clip.model(guide).table
    assert table is not None
    gamma, levels = np.asarray(chain.steps.frm.gamma), np.asarray(table.gamma)
    beyond = int(np.sum((gamma < levels[0]) | (gamma > levels[-1])))
    if not beyond:
        return ""
    return (
        f"{beyond} of {gamma.size} steps are at noise levels beyond those of the CLIP, gamma {levels[0]:.2f} to "
        f"{levels[-1]:.2f}; they use its nearest level"
    )
