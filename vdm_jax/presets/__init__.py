"""What the configs of one paper share: base settings, ablations, a size for two CPU cores. A file a family."""
