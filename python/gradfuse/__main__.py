"""`python -m gradfuse` prints what this installation is."""

from gradfuse._config import show_config

print(show_config())
