"""State, train step, loop, checkpoints and metrics, written once on `core.method.Method`."""
