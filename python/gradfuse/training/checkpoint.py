"""Checkpoints: a tree of arrays and plain values in one file, which is never half written.

The file is of the safetensors format: the arrays as they are, and in its metadata, as JSON, everything else and a
checksum. Nothing in it is ever executed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from gradfuse import _interop
from gradfuse._arrays import to_numpy
from gradfuse._optional import needed

FORMAT = 1


def save(path: str | os.PathLike[str], state: dict[str, Any]) -> None:
    """Writes a tree of dicts with string keys, lists, arrays, numbers, strings, booleans and None to a file.

    It is written to a temporary file beside it, synced and renamed: whenever the process dies, the file is either the
    old one or the new. Arrays of a GPU are copied from it; tuples come back as lists.
    Raises TypeError for anything else in the tree, OSError where the file cannot be written.
    """
    safetensors = needed("save", "safetensors.numpy")
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    text = json.dumps(_without_arrays(state, "", arrays))
    metadata = {"format": str(FORMAT), "state": text, "checksum": _checksum(text, arrays)}
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        file.write(safetensors.save(arrays, {"gradfuse": json.dumps(metadata)}))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    with contextlib.suppress(OSError):  # not every file system syncs directories
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The tree that save() wrote.

    Raises FileNotFoundError where there is no file, ValueError where it is damaged, cut short or no checkpoint.
    """
    safetensors = needed("load", "safetensors.numpy")
    data = Path(path).read_bytes()
    try:
        header = int.from_bytes(data[:8], "little")
        arrays = safetensors.load(data)
        written = json.loads(data[8 : 8 + header])["__metadata__"]
        metadata = json.loads(written.get("gradfuse") or written["smelt"])  # smelt: what gradfuse was called before
        text, checksum = metadata["state"], metadata["checksum"]
        version = metadata["format"]
    except Exception as error:  # whatever a parser makes of bytes that are not its own
        raise ValueError(f"load: {path} must be a checkpoint of gradfuse, undamaged, got a file that is not") from error
    if version != str(FORMAT):
        raise ValueError(f"load: {path} must be of format {FORMAT}, got {version}: a newer gradfuse reads it")
    if checksum != _checksum(text, arrays):
        raise ValueError(f"load: {path} must be undamaged, got one whose checksum is not that of its contents")
    state: dict[str, Any] = _with_arrays(json.loads(text), arrays)
    return state


def _checksum(text: str, arrays: dict[str, Any]) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _without_arrays(node: Any, name: str, arrays: dict[str, Any]) -> Any:
    if isinstance(node, dict):
        for key in node:
            if not isinstance(key, str) or key.startswith("__"):
                raise TypeError(f"save: state{name} must have plain strings as keys, got {key!r}")
        return {key: _without_arrays(value, f"{name}.{key}", arrays) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_without_arrays(value, f"{name}.{i}", arrays) for i, value in enumerate(node)]
    if isinstance(node, np.generic):
        node = node.item()
    if node is None or isinstance(node, (bool, int, float, str)):
        return node
    if not hasattr(node, "dtype"):
        raise TypeError(f"save: state{name} must be an array or a plain value, got {type(node).__name__}")
    array = np.ascontiguousarray(to_numpy(node)).reshape(node.shape)
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise TypeError(f"save: state{name} must be an array of numbers, got one of {array.dtype}")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    bfloat16 = array.dtype.name == "bfloat16"  # safetensors' NumPy side cannot read it
    key = f"{len(arrays)}{name}"  # the number tells apart what dots in keys make alike
    arrays[key] = array.view(np.uint16) if bfloat16 else array
    return {"__array__": key, "__bfloat16__": bfloat16}


def _with_arrays(node: Any, arrays: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_with_arrays(value, arrays) for value in node]
    if not isinstance(node, dict):
        return node
    if "__array__" in node:
        array = arrays[node["__array__"]]
        return array.view(_interop.numpy_dtype("bfloat16")) if node["__bfloat16__"] else array
    return {key: _with_arrays(value, arrays) for key, value in node.items()}
