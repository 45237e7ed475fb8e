"""A session on bytes, used as one on normalised images."""
from __future__ import annotations

import numpy as np
import torch

from modules.runtime.session import Input, Session


class PixelSession:
    """A session on bytes (N, H, W, 3), used as one on normalised images (N, 3, H, W)."""

    def __init__(self, session: Session, mean: tuple[float, ...], std: tuple[float, ...]):
        self.session, self.metadata = session, session.metadata
        self.mean, self.std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))

    def get_inputs(self) -> list[Input]:
        """The one input, with the shape of normalised images."""
        source = self.session.get_inputs()[0]
        return [Input(source.name, [source.shape[i] for i in (0, 3, 1, 2)])]

    def run(self, names, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs for the normalised images in `feeds`."""
        ((name, images),) = feeds.items()
        return self.session.run(names, {name: self._bytes(images)})

    def feed(self, images: np.ndarray) -> None:
        """Put the bytes of normalised images (N, 3, H, W) into the input."""
        self.session.feed(self._bytes(images))

    def invoke(self) -> None:
        """Run the model on the fed images."""
        self.session.invoke()

    def rounded(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images as the model takes them: rounded to whole bytes."""
        return (self._pixels(images) / 255 - self.mean) / self.std

    def _bytes(self, images: np.ndarray) -> np.ndarray:
        return self._pixels(torch.from_numpy(images)).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()

    def _pixels(self, images: torch.Tensor) -> torch.Tensor:
        return ((images * self.std + self.mean) * 255).round().clamp(0, 255)
