"""Experiments on CLIP: the number of negatives, noise levels, and what the order of words is worth."""
