"""The digits' training loop on PyTorch tensors: every step queued as it comes, then one step captured as a CUDA graph.

The net and its gradients are those of digits.py as they stand: gradfuse answers tensors with tensors. A graph is
recorded once and replayed for every batch. What changes from step to step lies in the GPU's memory: the batch, the
learning rate and the count of random streams.
"""

import argparse
from functools import partial
from time import perf_counter

import numpy as np
import torch
from digits import BATCH, GOAL, MAX_LR, gradients, logits, new_net, split
from sklearn.datasets import load_digits
from tqdm import tqdm

import gradfuse


class Training:
    """A net, its optimizer and its random streams on a device; a batch is copied to where the step reads it."""

    def __init__(self, seed, device):
        self.p, self.r = (type(group)(*(torch.from_numpy(a).to(device) for a in group)) for group in new_net(seed))
        capturable = device == "cuda"
        self.rng = gradfuse.Generator(seed, capturable=capturable)
        self.optimizer = gradfuse.optim.NAdam(self.p, lr=MAX_LR / 25, capturable=capturable)
        self.x = torch.zeros((BATCH, 64), device=device)
        self.t = torch.zeros(BATCH, dtype=torch.int64, device=device)
        self.run = self.step

    def step(self):
        self.loss, grads = gradients(self.p, self.r, self.x, self.t, self.rng)
        self.optimizer.step(grads)

    def capture(self):
        """From now on a step is one launch of a graph."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.step()  # what is made at the first step is there when the graph is recorded
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            self.step()
        self.run = graph.replay


def train(pixels, t, seed, epochs, captured=False, device="cuda"):
    """Returns the share of held-out digits read rightly and the time of a step."""
    x, parts = split(pixels, t, seed)
    x, t = torch.from_numpy(x).to(device), torch.from_numpy(t).to(device)
    training, shuffle = Training(seed, device), np.random.default_rng(seed).permutation
    if captured:
        training.capture()
    batches = len(parts[0]) // BATCH
    one_cycle = partial(np.interp, xp=(0, 0.3 * epochs * batches, epochs * batches), fp=(MAX_LR / 25, MAX_LR, 0))
    start = perf_counter()
    for epoch in tqdm(range(epochs), desc=f"seed {seed}, {'captured' if captured else 'eager'}", unit="epoch"):
        order = torch.from_numpy(shuffle(parts[0])[: batches * BATCH].reshape(batches, BATCH)).to(device)
        for k in range(batches):
            training.x[...], training.t[...] = x[order[k]], t[order[k]]
            training.optimizer.lr = float(one_cycle(epoch * batches + k))
            training.run()
    held_out = torch.from_numpy(parts[1]).to(device)
    read = logits(training.p, training.r, x[held_out]).argmax(axis=1)
    accuracy = float((read == t[held_out]).double().mean())  # waits for the GPU
    return accuracy, (perf_counter() - start) / (epochs * batches)


def why_not():
    """What is missing here, in a sentence."""
    if reason := gradfuse.cuda.why_not():
        return reason
    return "" if torch.cuda.is_available() else "this PyTorch can use none"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=60)
    epochs = parser.parse_args().epochs
    if reason := why_not():
        raise SystemExit(f"digits_torch_graph.py needs a GPU: {reason}")
    pixels, t = load_digits(return_X_y=True)
    for captured in (False, True):
        accuracy, seconds = train(pixels, t, 0, epochs, captured)
        mode = "captured" if captured else "eager"
        print(f"{mode:10}{accuracy:.2%} of the held-out digits read rightly, {seconds * 1e6:.0f} us a step")
        if accuracy < GOAL:
            raise SystemExit(f"less than {GOAL:.1%} were read rightly")


if __name__ == "__main__":
    main()
