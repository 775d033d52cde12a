"""Core of the environment services: wire protocol, session store, worker supervision. Knows no environment."""
