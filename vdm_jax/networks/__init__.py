"""Denoising networks, classifiers, discriminators and generators as Flax modules."""
