"""The digits' training loop on CuPy arrays.

The net and its gradients are those of digits.py as they stand: gradfuse answers CuPy arrays with CuPy arrays. CuPy
refuses matrix products while a CUDA graph is captured, so every step is queued as it comes; digits_torch_graph.py
captures one, on PyTorch tensors.
"""

import argparse
from functools import partial
from time import perf_counter

import cupy
import numpy as np
from digits import BATCH, GOAL, MAX_LR, gradients, logits, new_net, split
from sklearn.datasets import load_digits
from tqdm import tqdm

import gradfuse


def train(pixels, t, seed, epochs):
    """Returns the share of held-out digits read rightly and the time of a step."""
    x, parts = split(pixels, t, seed)
    x, t = cupy.asarray(x), cupy.asarray(t)
    p, r = (type(group)(*map(cupy.asarray, group)) for group in new_net(seed))
    shuffle, rng = np.random.default_rng(seed).permutation, gradfuse.Generator(seed)
    batches = len(parts[0]) // BATCH
    one_cycle = partial(np.interp, xp=(0, 0.3 * epochs * batches, epochs * batches), fp=(MAX_LR / 25, MAX_LR, 0))
    optimizer = gradfuse.optim.NAdam(p, lr=one_cycle)
    start = perf_counter()
    for _ in tqdm(range(epochs), desc=f"seed {seed}", unit="epoch"):
        order = cupy.asarray(shuffle(parts[0])[: batches * BATCH].reshape(batches, BATCH))
        for batch in order:
            _, grads = gradients(p, r, x[batch], t[batch], rng)
            optimizer.step(grads)
    cupy.cuda.Device().synchronize()
    seconds = (perf_counter() - start) / (epochs * batches)
    held_out = cupy.asarray(parts[1])
    read = logits(p, r, x[held_out]).argmax(axis=1)
    return float((read == t[held_out]).mean()), seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=60)
    epochs = parser.parse_args().epochs
    if not gradfuse.cuda.is_available():
        raise SystemExit(f"digits_cupy.py needs a GPU: {gradfuse.cuda.why_not()}")
    pixels, t = load_digits(return_X_y=True)
    accuracy, seconds = train(pixels, t, 0, epochs)
    print(f"{accuracy:.2%} of the held-out digits read rightly, {seconds * 1e6:.0f} us a step")
    if accuracy < GOAL:
        raise SystemExit(f"less than {GOAL:.1%} were read rightly")


if __name__ == "__main__":
    main()
