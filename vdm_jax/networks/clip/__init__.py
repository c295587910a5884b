"""CLIP (Radford et al. 2021): two networks that embed images and captions in a common space."""

from vdm_jax.networks.clip.model import CLIP, Embeddings, normalized, standardized
from vdm_jax.networks.clip.resnet import ModifiedResNet
from vdm_jax.networks.clip.settings import PUBLISHED, ResNet, Settings, Text, ViT, published
from vdm_jax.networks.clip.text import TextOutput, TextTower
from vdm_jax.networks.clip.vit import VisionTransformer

__all__ = [
    "CLIP",
    "PUBLISHED",
    "Embeddings",
    "ModifiedResNet",
    "ResNet",
    "Settings",
    "Text",
    "TextOutput",
    "TextTower",
    "ViT",
    "VisionTransformer",
    "normalized",
    "published",
    "standardized",
]
