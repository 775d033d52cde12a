"""ALFWorld as an environment service."""
