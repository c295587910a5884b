"""Shared settings of the configs of each paper: base settings, ablations, and a mini size for two CPU cores."""
