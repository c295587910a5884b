"""Experiments on score SDEs."""
