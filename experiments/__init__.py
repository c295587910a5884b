"""Experiments: one script per table or figure of a paper, `python -m experiments.<name> [--mini] [--seeds=3]`."""
