"""Training jobs for ETO: a small model from nothing (init), behavioural cloning (sft), preference optimisation (dpo)."""

__version__ = "0.1.0"
