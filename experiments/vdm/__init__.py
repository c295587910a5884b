"""Experiments on Variational Diffusion Models."""
