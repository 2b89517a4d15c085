"""`python -m smelt` prints what this installation is."""

from smelt import show_config

print(show_config())
