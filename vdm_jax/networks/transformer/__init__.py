"""A pre-norm transformer for text and image towers, text encoders of diffusion models, and priors."""

from vdm_jax.networks.transformer.embedding import TokenEmbedding
from vdm_jax.networks.transformer.settings import Common, Settings
from vdm_jax.networks.transformer.stack import Transformer, layer_norm

__all__ = ["Common", "Settings", "TokenEmbedding", "Transformer", "layer_norm"]
