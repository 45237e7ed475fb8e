"""TensorFlow's converter to int8 files, with post-training quantisation on representative images."""
from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from modules.deploy.to_keras.load import import_tensorflow, quiet


def convert(model, images: Iterable[np.ndarray] | None = None) -> bytes:
    """A `keras.Model` of images as a TFLite file.

    Args:
        images: normalised arrays (N, R, R, 3), such as (16, 224, 224, 3), for the ranges of all tensors. The file is
            full-integer int8 with weights per channel, int8 input and float32 logits, like our own files. None: float.
    """
    tensorflow, _ = import_tensorflow()
    with quiet():
        converter = tensorflow.lite.TFLiteConverter.from_keras_model(model)
        if images is not None:
            converter.optimizations = [tensorflow.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: ([image[None]] for batch in images for image in batch)
            converter.target_spec.supported_ops = [tensorflow.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = tensorflow.int8
        return converter.convert()


def random_images(model) -> list[np.ndarray]:
    """A batch of two normal random images, such as (2, 224, 224, 3), for files that are only timed."""
    return [np.random.default_rng(0).standard_normal((2, *model.input_shape[1:]), dtype=np.float32)]
