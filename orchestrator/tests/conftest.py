"""Settings of all tests here."""

from hypothesis import settings

# how long an example takes says something about the machine's load, not about the code
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
