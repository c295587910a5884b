"""Tokenizers, which convert text to token ids."""

from vdm_jax.text.tokenizers import Encoded, Tokenizer, load, train_bpe
from vdm_jax.text.vocabulary import KINDS

__all__ = ["KINDS", "Encoded", "Tokenizer", "load", "train_bpe"]
