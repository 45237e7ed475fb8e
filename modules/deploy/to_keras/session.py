"""A Keras model as a session: images and feature maps come as (N, C, H, W)."""
from __future__ import annotations

import numpy as np

from modules.deploy.graph.graph import INPUT
from modules.runtime.metadata import Metadata
from modules.runtime.session import Input


class KerasSession:
    """Runs a `keras.Model` of images (N, H, W, C); such a file holds no metadata."""

    def __init__(self, model):
        self.model, self.metadata = model, Metadata({}, model.name)

    def get_inputs(self) -> list[Input]:
        """The one input."""
        _, height, width, channels = self.model.input_shape
        return [Input(INPUT, (1, channels, height, width))]

    def run(self, _, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The output for the images (N, C, H, W) in `feeds`."""
        (images,) = feeds.values()
        self.feed(images)
        result = self.invoke()
        return [result.transpose(0, 3, 1, 2) if result.ndim == 4 else result]

    def feed(self, images: np.ndarray) -> None:
        """Put images (N, C, H, W) into the input."""
        self._images = images.transpose(0, 2, 3, 1)

    def invoke(self) -> np.ndarray:
        """Run the model on the fed images; returns (N, H, W, C) or (N, classes), such as (1, 1000)."""
        return self.model(self._images, training=False).numpy()
