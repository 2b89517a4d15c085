"""Resuming after a kill: a training run is killed five times, and ends bit for bit where an undisturbed one does.

The run writes a checkpoint after every twentieth step: model, optimizer, schedule, random streams and the place in the
data. Each time the process is killed without warning (SIGKILL), sometimes in the middle of writing; the next one goes
on from the last checkpoint. The figure shows the steps as they were taken, those that were lost and taken again
included.
"""

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import digits, figure_path
from matplotlib.figure import Figure

import gradfuse
from gradfuse import data, nn, schedules
from gradfuse.training import fit, load

EPOCHS, KILLS, EVERY = 40, 5, 20


def train(checkpoint, log=None):
    """Trains, or goes on where the checkpoint stands; `log` gets a line for each epoch, with the time."""
    (x, t), held_out = data.split(*digits(shape=(1, 8, 8)), fractions=(0.8, 0.2), seed=0)
    layers = [nn.Linear(64, 300, bias=False), nn.BatchNorm(300), nn.ELU(), nn.Dropout(0.3), nn.Linear(300, 10)]
    model = nn.Sequential(nn.Flatten(), *layers, rng=0)
    batches = data.Batches(x, t, seed=0, transform=data.augment(data.noise(0.1)))
    cycle = schedules.one_cycle(0.01, EPOCHS * len(batches))
    optimizer = gradfuse.optim.NAdam(model.parameters(), lr=cycle)

    def note(run):
        if log:
            with open(log, "a") as file:
                file.write(f"{time.time()} {run.epoch} {run.history['val_loss'][-1]}\n")

    fit(
        model,
        batches,
        optimizer,
        epochs=EPOCHS,
        validation=held_out,
        callbacks=[note],
        checkpoint=checkpoint,
        checkpoint_every=EVERY if checkpoint else None,
        progress=False,
    )
    return model.state_dict()


def train_killed(folder):
    """The same in processes of its own, which are killed; returns the moments of the kills."""
    checkpoint, log = folder / "run.safetensors", folder / "log"
    rng, kills = np.random.default_rng(0), []
    while True:
        process = subprocess.Popen([sys.executable, __file__, "--train", checkpoint, log])
        if len(kills) == KILLS:
            process.wait()
            return kills
        before = load(checkpoint)["step"] if checkpoint.exists() else 0
        while process.poll() is None and not (checkpoint.exists() and load(checkpoint)["step"] > before + 200):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills.append(time.time())


def draw(path, log, kills):
    moments, epochs, losses = np.loadtxt(log, unpack=True)
    start = moments[0]
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(moments - start, epochs, ".-")
    for kill in kills:
        left.axvline(kill - start, color="tab:red", linestyle="--", label="killed" if kill == kills[0] else None)
    left.set(xlabel="seconds", ylabel="epoch")
    left.legend()
    right.plot(epochs, losses, ".-")
    right.set(xlabel="epoch", ylabel="validation loss", title="as if nothing had happened")
    figure.savefig(path, dpi=120)


def main(figure: Path) -> dict[str, float]:
    expected = train(None)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        kills = train_killed(folder)
        actual = load(folder / "run.safetensors")["model"]
        draw(figure, folder / "log", kills)
    difference = max(float(np.abs(actual[name] - array).max()) for name, array in expected.items())
    print(f"killed {len(kills)} times; the largest difference of a weight to the undisturbed run's: {difference}")
    return {"kills": len(kills), "difference": difference}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        from common import one_thread

        one_thread()
        train(*sys.argv[2:])
    else:
        main(figure_path(__file__))
