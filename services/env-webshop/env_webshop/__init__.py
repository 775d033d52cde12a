"""WebShop as an environment service."""
