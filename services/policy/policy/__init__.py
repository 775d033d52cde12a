"""The policy server: prepares a model and starts vLLM on it, configured and not wrapped."""


class PolicyError(RuntimeError):
    """The command cannot go on. The message says what was asked, why it cannot be done and what to do now."""
