"""Evaluation: bits/dim over a split, sample quality, sample grids and plots."""
