"""What comes before the net: standardising, one-hot rows, splits, shuffled mini-batches, augmentation, prefetching.

Samples lie along the first axis of NumPy or CuPy arrays, and results come back in the same library and as new arrays.
What is random is drawn by NumPy on the CPU, so that a seed gives the same data with either library.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from gradfuse._arrays import Array, namespace, to_numpy
from gradfuse._checks import FINITE, SHARE, flag, generator, integer, number, state_of
from gradfuse._optional import needed

Item = TypeVar("Item")
Rng = int | np.random.Generator | None
Indices = npt.NDArray[np.intp]


# -- features and labels


class Standardizer:
    """y = (x - mean) / std, with the statistics of what `fit` was given: the training part, and no other.

    axis: what the statistics are taken over: 0, the samples, for a column each; (0, 2, 3) for each channel of images
    (N, C, H, W). std is that of the population (divided by N); where there is no spread it is 1, so that y = 0.
    `mean` and `std` are NumPy arrays of float64 that broadcast against one sample or many. Results are computed in
    float64 and have the dtype of x, or float32 where x holds integers.
    Raises TypeError for an axis or an array of a wrong kind, ValueError for axes without 0 or that x lacks, for no
    samples and for samples of another shape than those of `fit`, RuntimeError before `fit`.
    Source: LeCun, Bottou, Orr and Mueller 1998, Efficient BackProp; sklearn.preprocessing.StandardScaler.
    """

    def __init__(self, axis: int | tuple[int, ...] = 0) -> None:
        axes = axis if isinstance(axis, tuple) else (axis,)
        self.axis = tuple(integer("Standardizer: axis", a) for a in axes)
        if 0 not in axes or len(set(axes)) < len(axes):
            raise ValueError(f"Standardizer: axis must be 0 or a tuple of 0 and other axes, each once, got {axis!r}")
        self.mean: Array = None
        self.std: Array = None

    def fit(self, x: Array) -> Standardizer:
        """Takes the statistics of x, an array of samples. Returns self."""
        xp = namespace(x, "Standardizer.fit: x")
        _floating("Standardizer.fit: x", x)
        if x.ndim <= max(self.axis):
            raise ValueError(f"Standardizer.fit: x must have the axes {self.axis}, got shape {x.shape}")
        if x.size == 0:
            raise ValueError(f"Standardizer.fit: x must hold at least one element, got shape {x.shape}")
        low, high = (f(axis=self.axis, keepdims=True) for f in (x.min, x.max))
        mean, std = (f(axis=self.axis, keepdims=True, dtype=np.float64) for f in (x.mean, x.std))
        even = low == high  # where rounding makes a std of 1e-17 out of no spread
        self.mean = to_numpy(xp.where(even, low, mean)[0])
        self.std = to_numpy(xp.where(even, 1, std)[0])
        return self

    def transform(self, x: Array) -> Array:
        """(x - mean) / std, for one sample or an array of them."""
        return self._apply("transform", x, lambda x, mean, std: (x - mean) / std)

    def inverse(self, y: Array) -> Array:
        """y * std + mean: what `transform` was given, but for rounding."""
        return self._apply("inverse", y, lambda y, mean, std: y * std + mean)

    def _apply(self, method: str, x: Array, formula: Callable[[Array, Array, Array], Array]) -> Array:
        where = f"Standardizer.{method}"
        self._check_fitted(where)
        xp = namespace(x, f"{where}: x")
        dtype = _floating(f"{where}: x", x)
        if not _broadcasts(self.mean.shape, x.shape):
            raise ValueError(f"{where}: x must fit the statistics' shape {self.mean.shape}, got {x.shape}")
        return formula(x, xp.asarray(self.mean), xp.asarray(self.std)).astype(dtype)

    def _check_fitted(self, where: str) -> None:
        if self.mean is None:
            raise RuntimeError(f"{where}: fit must come first")

    def state_dict(self) -> dict[str, Array]:
        """The statistics: copies, safe to keep."""
        self._check_fitted("Standardizer.state_dict")
        return {"mean": self.mean.copy(), "std": self.std.copy()}

    def load_state_dict(self, state: dict[str, Array]) -> None:
        """Takes on the statistics of a state from state_dict().

        Raises TypeError or ValueError where it is none, and then changes nothing.
        """
        where = "Standardizer.load_state_dict: state"
        state_of(where, state, {"mean", "std"})
        mean, std = (np.array(state[key], dtype=np.float64) for key in ("mean", "std"))
        if mean.shape != std.shape:
            raise ValueError(f"{where} must hold two arrays of one shape, got {mean.shape} and {std.shape}")
        self.mean, self.std = mean, std


def standardize(train: Array, *others: Array, axis: int | tuple[int, ...] = 0) -> tuple[Array, ...]:
    """(x - mean) / std of every array, mean and std being those of `train` alone. Returns as many arrays as were given.

    Shapes and dtypes are those of `Standardizer`, which is what to keep where more data will come.
    Raises TypeError and ValueError as it does. Source: sklearn.preprocessing.StandardScaler.
    """
    standardizer = Standardizer(axis).fit(train)
    return tuple(standardizer.transform(x) for x in (train, *others))


def one_hot(labels: Array, classes: int | None = None, dtype: npt.DTypeLike = "float32") -> Array:
    """y[..., c] = 1 if labels[...] == c else 0.

    labels: integers in 0 ... classes - 1, of any shape; the result has the shape labels.shape + (classes,).
    classes: how many there are; by default the largest label + 1.
    The labels are looked at: those of a GPU are waited for.
    Raises TypeError for a wrong kind, ValueError for labels out of range and for no labels where classes is not given.
    Source: torch.nn.functional.one_hot.
    """
    xp = namespace(labels, "one_hot: labels")
    if labels.dtype.kind not in "iu":
        raise TypeError(f"one_hot: labels must be integers, got {labels.dtype}")
    if labels.size == 0 and classes is None:
        raise ValueError("one_hot: classes must be given where there are no labels, got None")
    least, most = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    if least < 0:
        raise ValueError(f"one_hot: labels must be >= 0, got {least}")
    classes = most + 1 if classes is None else integer("one_hot: classes", classes, least=1)
    if most >= classes:
        raise ValueError(f"one_hot: labels must be less than classes, {classes}, got {most}")
    return (labels[..., None] == xp.arange(classes)).astype(dtype)


# -- splits


def split(
    *arrays: Array, fractions: Sequence[float] = (0.8, 0.1, 0.1), stratify: Array | None = None, seed: int = 0
) -> list[Any]:
    """Random parts of the samples, each sample in exactly one, in the order they had: training, validation and test.

    arrays: one or more, with the same number n of samples. Returns a list of tuples, a part of every array each; a list
    of arrays where only one was given: `(x, t), (x_val, t_val), (x_test, t_test) = split(x, t)`.
    fractions: of the samples in each part, numbers in [0, 1] whose sum is 1. The size of a part differs from
    fraction * n by at most one: where samples are few a part may be empty.
    stratify: a label for each sample, shape (n,). Then this is so for the samples of every class.
    Raises TypeError for a wrong kind, ValueError for a wrong value or arrays of different lengths.
    Source: sklearn.model_selection.train_test_split.
    """
    n = sample_count("split", arrays)
    if not isinstance(fractions, Sequence) or isinstance(fractions, str):
        raise TypeError(f"split: fractions must be a sequence of numbers, got {fractions!r}")
    sizes = [number("split: each of fractions", f, SHARE) for f in fractions]
    if abs(sum(sizes) - 1) > 1e-9:
        raise ValueError(f"split: fractions must have the sum 1, got {fractions!r}")
    rng = np.random.default_rng(integer("split: seed", seed))
    order, counts = _by_class("split", n, stratify, rng)

    # Each class is spread evenly over [0, 1), and a part is an interval of that. The classes start at different points,
    # so that what they round up and down evens out over the classes.
    start = (rng.permutation(len(counts)) + 0.5) / max(len(counts), 1)
    rank = np.arange(n) - np.repeat(np.cumsum(counts) - counts, counts)
    place = (rank + np.repeat(start, counts)) / np.repeat(counts, counts)
    part = np.empty(n, np.intp)
    part[order] = np.searchsorted(np.cumsum(sizes)[:-1], place, side="right")
    return [take(arrays, np.flatnonzero(part == k)) for k in range(len(sizes))]


def k_fold(n: int, k: int = 5, *, stratify: Array | None = None, seed: int = 0) -> Iterator[tuple[Indices, Indices]]:
    """The k pairs (training indices, validation indices) of k-fold cross-validation, sorted NumPy arrays of integers.

    Each of the n samples is in one validation part, chosen at random; the sizes of these differ by at most one.
    stratify: a label for each sample, shape (n,). Then this is so for the samples of every class, too.
    Raises TypeError for a wrong kind, ValueError unless 2 <= k <= n and for labels of another shape.
    Source: sklearn.model_selection.KFold and StratifiedKFold.
    """
    n, k = integer("k_fold: n", n, least=2), integer("k_fold: k", k, least=2)
    if k > n:
        raise ValueError(f"k_fold: k must be at most the number of samples, {n}, got {k}")
    order, _ = _by_class("k_fold", n, stratify, np.random.default_rng(integer("k_fold: seed", seed)))
    fold = np.empty(n, np.intp)
    fold[order] = np.arange(n) % k  # dealt out like cards, one class after the other
    return ((np.flatnonzero(fold != i), np.flatnonzero(fold == i)) for i in range(k))


def _by_class(name: str, n: int, stratify: Array | None, rng: np.random.Generator) -> tuple[Indices, Indices]:
    """The samples in a random order, class after class, and each class's size. Without labels all are one class."""
    order = rng.permutation(n)
    if stratify is None:
        return order, np.array([n])
    namespace(stratify, f"{name}: stratify")
    if stratify.shape != (n,):
        raise ValueError(f"{name}: stratify must have shape ({n},), got {stratify.shape}")
    _, classes, counts = np.unique(to_numpy(stratify), return_inverse=True, return_counts=True)
    return order[np.argsort(classes[order], kind="stable")], counts


# -- batches


class Batches:
    """The mini-batches of an epoch, in an order that depends on the seed and the epoch alone.

    Iterating goes through one epoch: `for x, t in Batches(x, t): ...`. It yields tuples with a part of every array, the
    array itself where only one was given. The order of epoch e is that of `numpy.random.default_rng([seed, e])`.

    arrays: one or more, with the same number n >= 1 of samples.
    batch_size: how many samples, or a function of the epoch that says so (gradfuse.schedules.growing_batch).
    shuffle: False keeps the samples in their order.
    drop_last: leave out the last batch where it is smaller than the others; that may leave none.
    transform: transform(*batch, rng=...) gives what is yielded in the batch's place. rng, a numpy.random.Generator,
    depends on seed, epoch and batch alone. See `augment`.
    prefetch: so many batches are made ahead, in a thread; see the function of that name.

    epoch: the one that comes next, or is under way. An iteration that ends goes on to the next epoch; after one that is
    abandoned, the next begins the same epoch anew.
    position: how many batches of the epoch have been handed out. len() is how many there are.
    Raises TypeError for a wrong kind, ValueError for a wrong value or arrays of different lengths.
    Source: torch.utils.data.DataLoader.
    """

    def __init__(
        self,
        *arrays: Array,
        batch_size: int | Callable[[int], int] = 32,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        transform: Callable[..., Any] | None = None,
        prefetch: int = 0,
    ) -> None:
        self.n = sample_count("Batches", arrays, least=1)
        self.arrays = arrays
        self.batch_size = batch_size if callable(batch_size) else integer("Batches: batch_size", batch_size, least=1)
        self.shuffle = flag("Batches: shuffle", shuffle)
        self.seed = integer("Batches: seed", seed)
        self.drop_last = flag("Batches: drop_last", drop_last)
        if transform is not None and not callable(transform):
            raise TypeError(f"Batches: transform must be a function or None, got {transform!r}")
        self.transform = transform
        self.prefetch = integer("Batches: prefetch", prefetch)
        self.epoch = self.position = 0
        self._start = 0  # where in the epoch the next iteration begins

    def __len__(self) -> int:
        return self.length(self.epoch)

    def length(self, epoch: int) -> int:
        """How many batches an epoch has."""
        size = self._size(epoch)
        return self.n // size if self.drop_last else -(-self.n // size)

    def _size(self, epoch: int) -> int:
        size = self.batch_size(epoch) if callable(self.batch_size) else self.batch_size
        return integer("Batches: batch_size", size, least=1)

    def __iter__(self) -> Iterator[Any]:
        epoch, start = self.epoch, self._start
        batches = self._batches(epoch, range(start, self.length(epoch)))
        self.position, self._start = start, 0
        for position, batch in enumerate(prefetch(batches, self.prefetch) if self.prefetch else batches, start + 1):
            self.position = position
            yield batch
        self.epoch, self.position, self._start = epoch + 1, 0, 0

    def whole(self) -> Iterator[Any]:
        """All batches of the epoch that comes next or is under way, whatever the place, which stays."""
        return self._batches(self.epoch, range(len(self)))

    def _batches(self, epoch: int, numbers: range) -> Iterator[Any]:
        """The batches of an epoch that have these numbers. It may run in a thread: it looks at nothing that changes."""
        size = self._size(epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(self.n) if self.shuffle else np.arange(self.n)
        orders = [namespace(x).asarray(order) for x in self.arrays]
        for k in numbers:
            part = slice(k * size, (k + 1) * size)
            batch = tuple([x.take(o[part], 0) for x, o in zip(self.arrays, orders, strict=True)])
            if self.transform is not None:
                # The 1 keeps its generator apart from the order's: NumPy takes [seed, epoch, 0, 0] for [seed, epoch].
                yield self.transform(*batch, rng=np.random.default_rng([self.seed, epoch, k, 1]))
            else:
                yield batch if len(batch) > 1 else batch[0]

    def state_dict(self) -> dict[str, Any]:
        """The place: epoch and position, and what the order depends on. Plain values.

        Taken while a batch is at work, it stands for that batch as done.
        """
        return {**self._settings(self.epoch), "epoch": self.epoch, "position": self.position}

    def _settings(self, epoch: int) -> dict[str, Any]:
        size = self._size(epoch)
        return {
            "n": self.n,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "batch_size": size,
            "drop_last": self.drop_last,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes on the place of a state from state_dict(): the next iteration goes on there, with what was left then.

        Raises TypeError or ValueError where the state is none, or is of other data or another seed, shuffle, batch
        size or drop_last, and then changes nothing.
        """
        where = "Batches.load_state_dict: state"
        state_of(where, state, {*self._settings(0), "epoch", "position"})
        epoch = integer(f"{where}['epoch']", state["epoch"])
        position = integer(f"{where}['position']", state["position"])
        for key, mine in self._settings(epoch).items():
            if state[key] != mine:
                raise ValueError(f"{where}[{key!r}] must be {mine}, got {state[key]!r}")
        if position > self.length(epoch):
            raise ValueError(f"{where}['position'] must be at most {self.length(epoch)}, got {position}")
        self.epoch, self.position, self._start = epoch, position, position


def prefetch(iterable: Iterable[Item], depth: int = 2) -> Iterator[Item]:
    """The items of an iterable, which a thread takes from it up to `depth` ahead of the consumer.

    The thread begins with the first item and ends with the last. Where the consumer leaves early it ends too, as soon
    as it has the item that it is at; items not handed out are lost. An exception of the iterable reaches the consumer
    after the items before it, with its traceback. With CuPy the thread works on the consumer's device and stream.
    Raises TypeError for a wrong kind, ValueError for depth < 1.
    """
    return _prefetched(iter(iterable), integer("prefetch: depth", depth, least=1))


def _prefetched(iterator: Iterator[Any], depth: int) -> Iterator[Any]:
    end = object()
    thread = ThreadPoolExecutor(1, "gradfuse-prefetch", initializer=_same_stream())
    try:
        ahead = deque(thread.submit(next, iterator, end) for _ in range(depth))
        while (item := ahead.popleft().result()) is not end:
            ahead.append(thread.submit(next, iterator, end))
            yield item
    finally:
        thread.shutdown(cancel_futures=True)


def _same_stream() -> Callable[[], None]:
    """What makes another thread use the device and stream that CuPy uses in this one: each thread has its own."""
    cupy = sys.modules.get("cupy")
    if cupy is None or not cupy.cuda.is_available():
        return lambda: None
    device, stream = cupy.cuda.Device(), cupy.cuda.get_current_stream()

    def use() -> None:
        device.use()
        stream.use()

    return use


# -- augmentation


class Augmentation:
    """A random change of images; it can be printed, compared, copied and pickled."""

    def __call__(self, images: Array, rng: Rng = None) -> Array:
        """The changed images, a new array of the same dtype.

        images: shape (N, C, H, W); each of the N is changed by chance of its own.
        rng: a seed, a numpy.random.Generator, or None for other numbers at each call.
        Raises TypeError for a wrong kind, ValueError for another shape.
        """
        name = type(self).__name__
        xp = namespace(images, f"{name}: images")
        if images.ndim != 4:
            raise ValueError(f"{name}: images must have shape (N, C, H, W), got {images.shape}")
        return self._change(xp, images, generator(name, rng))

    def _change(self, xp: Any, images: Array, rng: np.random.Generator) -> Array:
        raise NotImplementedError


@dataclass(frozen=True)
class flip(Augmentation):
    """With probability p an image is reversed along an axis: -1, left and right, or -2, up and down.

    Raises TypeError for a wrong kind, ValueError for p outside [0, 1] and for another axis.
    Source: torchvision.transforms.v2.RandomHorizontalFlip and RandomVerticalFlip.
    """

    p: float = 0.5
    axis: int = -1

    def __post_init__(self) -> None:
        number("flip: p", self.p, SHARE)
        if self.axis not in (-1, -2):
            raise ValueError(f"flip: axis must be -1 (left and right) or -2 (up and down), got {self.axis!r}")

    def _change(self, xp: Any, images: Array, rng: np.random.Generator) -> Array:
        flipped = xp.asarray(rng.random(len(images)) < self.p)
        return xp.where(flipped[:, None, None, None], xp.flip(images, self.axis), images)


@dataclass(frozen=True)
class shift(Augmentation):
    """An image is moved by whole pixels, from -pixels to pixels in each direction, all equally likely.

    fill: what comes in from outside. Raises TypeError for a wrong kind, ValueError for pixels < 0.
    Source: torchvision.transforms.v2.RandomAffine(translate=...).
    """

    pixels: int
    fill: float = 0.0

    def __post_init__(self) -> None:
        integer("shift: pixels", self.pixels)
        number("shift: fill", self.fill, FINITE)

    def _change(self, xp: Any, images: Array, rng: np.random.Generator) -> Array:
        return _random_windows(xp, _padded(xp, images, self.pixels, self.fill), images.shape[2:], rng)


@dataclass(frozen=True)
class crop(Augmentation):
    """A window of an image, anywhere in it with equal probability.

    size: that of the window, and so of the result: (height, width), or a number for a square.
    padding: so many pixels of zeros are put around the image first.
    Raises TypeError for a wrong kind, ValueError for a wrong value, and for images smaller than the window.
    Source: torchvision.transforms.v2.RandomCrop; with flips: He, Zhang, Ren and Sun 2016.
    """

    size: int | tuple[int, int]
    padding: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.size, tuple) and len(self.size) != 2:
            raise ValueError(f"crop: size must be a number or (height, width), got {self.size!r}")
        for length in self._window():
            integer("crop: size", length, least=1)
        integer("crop: padding", self.padding)

    def _window(self) -> tuple[int, int]:
        return self.size if isinstance(self.size, tuple) else (self.size, self.size)

    def _change(self, xp: Any, images: Array, rng: np.random.Generator) -> Array:
        padded, window = _padded(xp, images, self.padding, 0.0), self._window()
        if any(length < part for length, part in zip(padded.shape[2:], window, strict=True)):
            raise ValueError(f"crop: images must be at least {window} with their padding, got {padded.shape[2:]}")
        return _random_windows(xp, padded, window, rng)


@dataclass(frozen=True)
class noise(Augmentation):
    """x + std * z, z normally distributed for each element. Integers are rounded and kept in their range.

    Raises TypeError for a wrong kind, ValueError for std < 0.
    Source: Bishop 1995, Training with noise is equivalent to Tikhonov regularization;
    torchvision.transforms.v2.GaussianNoise.
    """

    std: float

    def __post_init__(self) -> None:
        number("noise: std", self.std)

    def _change(self, xp: Any, images: Array, rng: np.random.Generator) -> Array:
        _floating("noise: images", images)
        return _rounded(xp, images + xp.asarray(rng.normal(0, self.std, images.shape)), images.dtype)


@dataclass(frozen=True)
class rotate(Augmentation):
    """An image is turned about its centre by an angle from -degrees to degrees, all equally likely; bilinear.

    fill: what comes in from outside. Integers are rounded. SciPy does it, or CuPy's part of that name.
    Raises TypeError for a wrong kind, ValueError for degrees < 0, ImportError without SciPy.
    Source: scipy.ndimage.rotate; torchvision.transforms.v2.RandomRotation.
    """

    degrees: float
    fill: float = 0.0

    def __post_init__(self) -> None:
        number("rotate: degrees", self.degrees)
        number("rotate: fill", self.fill, FINITE)

    def _change(self, xp: Any, images: Array, rng: np.random.Generator) -> Array:
        _floating("rotate: images", images)
        ndimage = needed("rotate", "scipy.ndimage" if xp is np else "cupyx.scipy.ndimage")
        turned = images.astype(np.float64)  # SciPy knows neither float16 nor bfloat16
        for image, angle in zip(turned, rng.uniform(-self.degrees, self.degrees, len(images)), strict=True):
            image[...] = ndimage.rotate(image, angle, axes=(1, 2), reshape=False, order=1, cval=self.fill)
        return _rounded(xp, turned, images.dtype)


@dataclass(init=False)
class compose(Augmentation):
    """Several augmentations, one after the other; without any, the images as they are.

    Raises TypeError for what is no augmentation. Source: torchvision.transforms.v2.Compose.
    """

    augmentations: tuple[Callable[[Array, np.random.Generator], Array], ...]

    def __init__(self, *augmentations: Callable[[Array, np.random.Generator], Array]) -> None:
        for augmentation in augmentations:
            if not callable(augmentation) or isinstance(augmentation, type):
                raise TypeError(f"compose: augmentations must be functions (images, rng), got {augmentation!r}")
        self.augmentations = augmentations

    def _change(self, xp: Any, images: Array, rng: np.random.Generator) -> Array:
        for augmentation in self.augmentations:
            images = augmentation(images, rng)
        return images


def augment(*augmentations: Callable[[Array, np.random.Generator], Array]) -> Callable[..., Any]:
    """A transform for `Batches` that changes the first array of a batch, images of shape (N, C, H, W), and no other:

    `Batches(images, labels, transform=augment(flip(), shift(2)))`. Raises TypeError for what is no augmentation.
    """
    change = compose(*augmentations)

    def transform(images: Array, *others: Array, rng: np.random.Generator) -> Any:
        changed = change(images, rng)
        return (changed, *others) if others else changed

    return transform


def _padded(xp: Any, images: Array, pixels: int, fill: float) -> Array:
    around = (pixels, pixels)
    value = _rounded(np, np.float64(fill), images.dtype)
    return xp.pad(images, ((0, 0), (0, 0), around, around), constant_values=value)


def _random_windows(xp: Any, images: Array, size: tuple[int, int], rng: np.random.Generator) -> Array:
    """From each image a window of that size."""
    windows = xp.lib.stride_tricks.sliding_window_view(images, tuple(size), axis=(2, 3))  # all that there are
    n, _, tops, lefts = windows.shape[:4]
    return windows[xp.arange(n), :, xp.asarray(rng.integers(0, tops, n)), xp.asarray(rng.integers(0, lefts, n))]


def _rounded(xp: Any, values: Array, dtype: Any) -> Array:
    """Float64 values in an image's dtype; integers to the nearest, within their range."""
    if dtype.kind in "iu":
        values = xp.clip(xp.rint(values), np.iinfo(dtype).min, np.iinfo(dtype).max)
    return values.astype(dtype)


# -- arrays and checks


def take(arrays: tuple[Array, ...], indices: Indices) -> Any:
    """The samples at these indices of every array; of a single one by itself."""
    parts = tuple(x[namespace(x).asarray(indices)] for x in arrays)
    return parts if len(parts) > 1 else parts[0]


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    return len(shape) <= len(to) and all(a in (1, b) for a, b in zip(shape[::-1], to[::-1], strict=False))


def _floating(where: str, x: Array) -> Any:
    """The dtype of what is computed of x."""
    if x.dtype.kind in "iu":
        return np.dtype(np.float32)
    if x.dtype.kind == "f" or x.dtype.name == "bfloat16":
        return x.dtype
    raise TypeError(f"{where} must hold real numbers, got {x.dtype}")


def sample_count(name: str, arrays: tuple[Array, ...], least: int = 0) -> int:
    """How many samples the arrays have, all the same number."""
    if not arrays:
        raise TypeError(f"{name}: arrays must be at least one, got none")
    for x in arrays:
        namespace(x, f"{name}: arrays")
    lengths = {x.shape[0] if x.ndim else None for x in arrays}
    if len(lengths) > 1 or None in lengths:
        raise ValueError(f"{name}: arrays must have one number of samples, got shapes {[x.shape for x in arrays]}")
    return integer(f"{name}: the number of samples", lengths.pop(), least)


__all__ = [
    "Augmentation",
    "Batches",
    "Standardizer",
    "augment",
    "compose",
    "crop",
    "flip",
    "k_fold",
    "noise",
    "one_hot",
    "prefetch",
    "rotate",
    "shift",
    "split",
    "standardize",
]
