"""The speed that every row must reach: that of its fastest peer in the same run, on an H200 that of a prototype, and a
share of a copy's speed."""

from __future__ import annotations

from typing import Any

from benchmarks.cuda.report import peer_of

OF_PEER, OF_PROTOTYPE = 1.02, 1.05  # at most so many times the time of each

SOFTMAX = {"4096x1000": (9.4, 6.5), "1024x32768": (71, 47)}
SOFTMAX_BACKWARD = {"4096x1000": (13.1, 7.4), "1024x32768": (102, 52)}

# Microseconds on an NVIDIA H200, in float32 and in bfloat16: the best kernels that were tried alone and are as exact as
# the tests ask.
PROTOTYPES: dict[str, dict[str, tuple[float, float]]] = {
    "softmax": SOFTMAX,
    "log_softmax": SOFTMAX,
    "softmax backward": SOFTMAX_BACKWARD,
    "log_softmax backward": SOFTMAX_BACKWARD,
    "cross-entropy with gradient": {"4096x1000": (11.2, 9.1), "8192x32000": (513, 356)},
    "batch norm": {"64x256x28x28": (36, 22.4), "32x64x56x56": (18.4, 11.7)},
    "batch norm backward": {"64x256x28x28": (51, 27), "32x64x56x56": (29.5, 14.5)},
    "L2 norm": {"67108864": (62.5, 62.7), "134217728": (62.5, 62.7)},
    "Adam": {"67108864": (442, 442)},
    "NAdam": {"67108864": (442, 442)},
    "Adamax": {"67108864": (442, 442)},
    "clip + Adam": {"67108864": (505, 505)},
    "Adam, ResNet-50": {"161 tensors": (205, 205)},
    "Adam, 10,000 tensors of 100": {"a graph, in L2": (377, 377)},
}

# The least share of the copy's speed in the same run, on the least bytes.
SHARES: dict[str, dict[str, float]] = {
    "softmax": {"1048576x10": 0.7},
    "layer_norm": {"8192x4096": 0.90, "1048576x10": 0.7},
    "layer_norm backward": {"8192x4096": 0.85},
    "rms_norm": {"8192x4096": 0.90},
    "rms_norm backward": {"8192x4096": 0.85},
    "batch norm, last axis": {"8192x4096": 0.85},
}


def missed(results: dict[str, Any]) -> list[str]:
    """A line for each row that is slower than its mark."""
    lines = []
    for row in results["rows"]:
        if "gradfuse" not in row["seconds"]:
            continue
        mine, name = row["seconds"]["gradfuse"]["median"] * 1e6, f"{row['case']}, {row['dtype']}, {row['shape']}"
        peer = peer_of(row)
        if peer and peer[1] < 1 / OF_PEER:
            lines.append(f"{name}: {mine:.1f} us, {peer[0]} {mine * peer[1]:.1f}")
        known = PROTOTYPES.get(row["case"], {}).get(row["shape"])
        prototype = known[row["dtype"] == "bfloat16"] if known else None
        if prototype and results["machine"].get("gpu") == "NVIDIA H200" and mine > OF_PROTOTYPE * prototype:
            lines.append(f"{name}: {mine:.1f} us, the prototype {prototype}")
        share = SHARES.get(row["case"], {}).get(row["shape"])
        if share and (row["copy_share"] or 0) < share:
            lines.append(f"{name}: {row['copy_share'] or 0:.2f} of a copy's speed, the mark {share}")
    return lines
