"""What every engine's session answers."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Input:
    """What a session that is used like onnxruntime's takes: (batch, channels, height, width)."""

    name: str
    shape: Sequence[int | str]


def predict(session, images: np.ndarray) -> np.ndarray:
    """Logits (N, classes) of float32 images (N, 3, R, R)."""
    return session.run(None, {session.get_inputs()[0].name: images})[0]


def summarize(times: np.ndarray) -> tuple[float, float]:
    """Median, and half the distance between the 10th and 90th percentile, of latencies in milliseconds."""
    low, middle, high = np.percentile(times, (10, 50, 90))
    return float(middle), float((high - low) / 2)
