"""Small data sets kept decoded in memory, so that an epoch costs no image decoding."""

import numpy as np

from modules.datasets.sources import ImageSource

HOLD_BYTES = 256 * 2**20  # decoded images above this are read again in each epoch
_SAMPLED = 256            # files whose headers are read to estimate the decoded size


class HeldDecoded(ImageSource):
    """An encoded source whose images are decoded at their first use and then kept as uint8 arrays."""

    def __init__(self, source):
        super().__init__(source.classes, source.labels)
        self.source = source
        self._pixels = [None] * len(source)

    def image(self, index):
        from PIL import Image

        self.prepare((index,))
        return Image.fromarray(self._pixels[index])

    def prepare(self, indices):
        """Decode these images now. Called before workers fork, so that they inherit them instead of repeating it."""
        for index in indices:
            if self._pixels[index] is None:
                self._pixels[index] = np.array(self.source.image(index))


def decoded_bytes(source):
    """Estimate the size of all images once decoded, from the headers of a few hundred evenly spaced ones."""
    indices = np.unique(np.linspace(0, len(source) - 1, _SAMPLED).astype(int))
    sizes = [source.size(index) for index in indices.tolist()]
    return len(source) * float(np.mean([3 * width * height for width, height in sizes]))


def hold_if_small(source):
    """Return the source, or a `HeldDecoded` of it if its decoded images fit into HOLD_BYTES."""
    return HeldDecoded(source) if decoded_bytes(source) <= HOLD_BYTES else source
