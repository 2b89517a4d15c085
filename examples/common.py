"""What the examples share: handwritten digits, where their figure goes, and small arrays on one thread."""

import argparse
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

import gradfuse
from gradfuse.data import split

FIGURES = Path(__file__).parents[1] / "docs" / "figures"


def one_thread():
    """Arrays as small as the examples' gain nothing from a second thread."""
    gradfuse.set_num_threads(1)
    threadpool_limits(1, user_api="blas")


def digits(*fractions, shape=(64,), seed=0):
    """The 1797 digits of scikit-learn: pixels from 0 to 1, each image of this shape, and labels.

    A pair (x, t), or a list of them, one for each fraction, with the same share of every digit.
    """
    x, t = load_digits(return_X_y=True)
    x = np.float32(x / 16).reshape(-1, *shape)
    return split(x, t, fractions=fractions, stratify=t, seed=seed) if fractions else (x, t)


def figure_path(file):
    """The path given as --figure, else docs/figures/NAME.png."""
    one_thread()
    default = FIGURES / f"{Path(file).stem}.png"
    parser = argparse.ArgumentParser()
    parser.add_argument("--figure", type=Path, default=default, help="where the figure is drawn (default: %(default)s)")
    figure = parser.parse_args().figure
    figure.parent.mkdir(parents=True, exist_ok=True)
    return figure
