"""Infrastructure of a run: devices, processes, locks, working directories and checkpoints."""
