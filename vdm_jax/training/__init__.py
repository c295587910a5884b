"""Train state, train step, training loop and metrics, generic over `core.method.Method`."""
