"""ETO's orchestrator: it plays episodes, makes pairs, launches training jobs and runs the whole loop."""

__version__ = "0.1.0"
