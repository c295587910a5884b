"""Experiments on guidance by a classifier and without one."""
