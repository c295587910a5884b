"""State, train step, loop, checkpoints and metrics, written once on `methods.base.Method`."""
