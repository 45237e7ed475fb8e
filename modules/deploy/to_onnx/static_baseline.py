"""Baseline of our int8 files: onnxruntime's own static quantisation."""
from __future__ import annotations

import contextlib
import logging
import tempfile
from pathlib import Path

import numpy as np

from modules.runtime.ort import open_session
from modules.utils.files import atomic_write


def static_quantized(fp32: str | Path, images: list[np.ndarray] | None = None) -> Path:
    """The fp32 file quantised by `onnxruntime.quantization.quantize_static`; kept beside it as `*_static_int8.onnx`.

    QDQ, uint8 activations, int8 weights per channel, min-max calibration.

    Args:
        images: batches (N, 3, R, R), or of bytes (N, R, R, 3) if the file takes these, to calibrate on; None: two
            random images, for files that are only timed.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    fp32 = Path(fp32)
    source = open_session(fp32).get_inputs()[0]
    target = fp32.with_name(f"{fp32.stem}_static_int8.onnx")
    if target.is_file() and target.stat().st_mtime > fp32.stat().st_mtime:
        return target
    if images is None:
        rng, shape = np.random.default_rng(0), (2, 1, *source.shape[1:])
        images = list(rng.integers(0, 256, shape, np.uint8) if source.pixels
                      else rng.standard_normal(shape, dtype=np.float32))

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.feeds = iter([{source.name: batch} for batch in images])

        def get_next(self):
            return next(self.feeds, None)

    with tempfile.TemporaryDirectory(prefix="static", dir=fp32.parent) as folder, _quiet():
        prepared, quantized = f"{folder}/prepared.onnx", f"{folder}/quantized.onnx"
        quant_pre_process(str(fp32), prepared, skip_symbolic_shape=True)
        quantize_static(prepared, quantized, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)
        with atomic_write(target, "wb") as file:
            file.write(Path(quantized).read_bytes())
    return target


@contextlib.contextmanager
def _quiet():
    """Hide the advice that the quantiser prints on every call."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
