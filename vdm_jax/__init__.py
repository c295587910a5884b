"""Diffusion models in JAX and Flax."""
