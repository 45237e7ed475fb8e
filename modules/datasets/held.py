"""Small data sets kept decoded in memory: an epoch then decodes no image."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from modules.datasets.decode import SCALED_MODES, Header
from modules.datasets.sources import EncodedSource, ImageSource
from modules.utils.notes import say

if TYPE_CHECKING:
    from PIL.Image import Image

HOLD_BYTES = 256 * 2**20  # decoded images above this are read again in each epoch
_SAMPLED = 256            # files whose headers are read to estimate the decoded size
_BLOCK = 16 * 2**20       # bytes; small arrays of their own among a training's tensors would leave gaps in memory


class HeldDecoded(ImageSource):
    """An encoded source that decodes each image at its first use and then keeps it as a uint8 array, in blocks of many
    images."""

    def __init__(self, source: EncodedSource):
        super().__init__(source.classes, source.labels)
        self.source = source
        self._pixels: list[np.ndarray | None] = [None] * len(source)
        self._free = np.empty(0, np.uint8)  # the rest of the last block

    def image(self, index: int) -> Image:
        from PIL import Image

        return Image.fromarray(self.array(index))

    def array(self, index: int) -> np.ndarray:
        self.prepare((index,))
        return self._pixels[index]

    def digest(self) -> str:
        return self.source.digest(len(self.source))

    def prepare(self, indices: Iterable[int]) -> None:
        """Decode these images now. A call before workers fork lets them inherit the images."""
        for index in indices:
            if self._pixels[index] is None:
                self._pixels[index] = self._kept(np.asarray(self.source.image(index)))

    def _kept(self, image: np.ndarray) -> np.ndarray:
        if image.size > len(self._free):
            self._free = np.empty(max(image.size, _BLOCK), np.uint8)
        kept, self._free = self._free[:image.size].reshape(image.shape), self._free[image.size:]
        kept[:] = image
        return kept


def sample_headers(source: EncodedSource) -> list[Header]:
    """The headers of a few hundred evenly spaced images."""
    indices = np.unique(np.linspace(0, len(source) - 1, _SAMPLED).astype(int))
    return [source.header(index) for index in indices.tolist()]


def decoded_bytes(source: EncodedSource, headers: list[Header]) -> float:
    """Estimate the size of all images once decoded, from the headers of some."""
    return len(source) * float(np.mean([3 * header.width * header.height for header in headers]))


def hold_if_small(source: EncodedSource) -> ImageSource:
    """The source, or a `HeldDecoded` of it if its decoded images fit into HOLD_BYTES.

    A line tells about images with values whose range no format states: the decoder assumes one.
    """
    headers = sample_headers(source)
    scaled = Counter(SCALED_MODES[header.mode] for header in headers if header.mode in SCALED_MODES)
    for kind, count in scaled.items():
        say(f"{count} of {len(headers)} images looked at hold {kind}: each image is scaled from 0..1, 0..255 or else "
            f"its own range; such as {source.where(0)}")
    return HeldDecoded(source) if decoded_bytes(source, headers) <= HOLD_BYTES else source
