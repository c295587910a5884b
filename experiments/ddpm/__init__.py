"""Experiments on DDPM and Improved DDPM."""
