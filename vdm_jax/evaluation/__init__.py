"""Bits/dim over whole splits, sample grids and plots."""
