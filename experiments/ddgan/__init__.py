"""Experiments on Denoising Diffusion GANs."""
