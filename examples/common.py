"""What the examples share: where their figure goes, and small arrays on one thread."""

import argparse
from pathlib import Path

from threadpoolctl import threadpool_limits

import smelt

FIGURES = Path(__file__).parents[1] / "docs" / "figures"


def one_thread():
    """Arrays as small as the examples' gain nothing from a second thread."""
    smelt.set_num_threads(1)
    threadpool_limits(1, user_api="blas")


def figure_path(file):
    """The path given as --figure, else docs/figures/NAME.png."""
    one_thread()
    default = FIGURES / f"{Path(file).stem}.png"
    parser = argparse.ArgumentParser()
    parser.add_argument("--figure", type=Path, default=default, help="where the figure is drawn (default: %(default)s)")
    figure = parser.parse_args().figure
    figure.parent.mkdir(parents=True, exist_ok=True)
    return figure
