"""The digits' training loop on CuPy arrays: every step queued as it comes, then one step captured as a CUDA graph.

The net and its gradients are those of digits.py as they stand: gradfuse answers CuPy arrays with CuPy arrays. A
graph is recorded once and replayed for every batch. What changes from step to step lies in the GPU's memory: the batch,
the learning rate and the count of random streams.
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


def on_gpu(arrays):
    return type(arrays)(*map(cupy.asarray, arrays))


class Training:
    """A net, its optimizer and its random streams on the GPU; a batch is copied to where the step reads it."""

    def __init__(self, seed):
        self.p, self.r = map(on_gpu, new_net(seed))
        self.rng = gradfuse.Generator(seed, capturable=True)
        self.optimizer = gradfuse.optim.NAdam(self.p, lr=MAX_LR / 25, capturable=True)
        self.x, self.t = cupy.zeros((BATCH, 64), np.float32), cupy.zeros(BATCH, np.int64)
        self.run = self.step

    def step(self):
        self.loss, grads = gradients(self.p, self.r, self.x, self.t, self.rng)
        self.optimizer.step(grads)

    def capture(self):
        """From now on a step is one launch of a graph."""
        self.stream = cupy.cuda.Stream()  # its own: memory that the graph uses is given to nobody else
        with self.stream:
            self.step()  # what is made at the first step is there when the graph is recorded
            self.stream.synchronize()
            self.stream.begin_capture()
            self.step()
            graph = self.stream.end_capture()
        self.run = lambda: graph.launch(self.stream)


def train(pixels, t, seed, epochs, captured):
    """Returns the share of held-out digits read rightly and the time of a step."""
    x, parts = split(pixels, t, seed)
    x, t = cupy.asarray(x), cupy.asarray(t)
    training, shuffle = Training(seed), np.random.default_rng(seed).permutation
    if captured:
        training.capture()
    batches = len(parts[0]) // BATCH
    one_cycle = partial(np.interp, xp=(0, 0.3 * epochs * batches, epochs * batches), fp=(MAX_LR / 25, MAX_LR, 0))
    start = perf_counter()
    for epoch in tqdm(range(epochs), desc=f"seed {seed}, {'captured' if captured else 'eager'}", unit="epoch"):
        order = cupy.asarray(shuffle(parts[0])[: batches * BATCH].reshape(batches, BATCH))
        for k in range(batches):
            training.x[...], training.t[...] = x[order[k]], t[order[k]]
            training.optimizer.lr = float(one_cycle(epoch * batches + k))
            training.run()
    cupy.cuda.Device().synchronize()
    seconds = (perf_counter() - start) / (epochs * batches)
    held_out = cupy.asarray(parts[1])
    read = logits(training.p, training.r, x[held_out]).argmax(axis=1)
    return float((read == t[held_out]).mean()), seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=60)
    epochs = parser.parse_args().epochs
    if not gradfuse.cuda.is_available():
        raise SystemExit(f"digits_cupy.py needs a GPU: {gradfuse.cuda.why_not()}")
    digits = load_digits()
    pixels, t = digits.data.astype(np.float32), digits.target
    for captured in (False, True):
        accuracy, seconds = train(pixels, t, 0, epochs, captured)
        mode = "captured" if captured else "eager"
        print(f"{mode:10}{accuracy:.2%} of the held-out digits read rightly, {seconds * 1e6:.0f} us a step")
        if accuracy < GOAL:
            raise SystemExit(f"less than {GOAL:.1%} were read rightly")


if __name__ == "__main__":
    main()
