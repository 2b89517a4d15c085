"""`python -m smelt` prints what this installation is."""

from smelt._config import show_config

print(show_config())
