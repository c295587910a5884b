"""What a run stands on: devices, processes, locks, working directories and checkpoints."""
