"""The two devices of the published search, as models fitted to its block tables by `modules.latency.published`.

`tflite27_cpu_int8` is a Pixel 4 with TFLite 2.7 on one big core, `onnx_lut` an x86 server with VNNI and onnxruntime.
"""
from __future__ import annotations

from functools import cache, partial

from modules.latency.fitted.block_model import BlockModel
from modules.latency.fitted.platform import ModelPlatform
from modules.latency.platform import register_platform
from modules.utils.files import REPOSITORY

PUBLISHED_PLATFORMS = ("tflite27_cpu_int8", "onnx_lut")
FOLDER = REPOSITORY / "data" / "latency"
MODEL_FILE = "model.npz"


@cache
def _load(name: str) -> BlockModel:
    return BlockModel.load(FOLDER / name / MODEL_FILE)


def _platform(name: str) -> ModelPlatform:
    return ModelPlatform(_load(name))


for _name in PUBLISHED_PLATFORMS:
    register_platform(_name)(partial(_platform, _name))
