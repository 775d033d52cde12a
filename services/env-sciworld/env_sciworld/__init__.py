"""ScienceWorld as an environment service."""
