"""Score networks as pure init/apply pairs."""
