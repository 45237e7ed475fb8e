"""Latency of blocks and subnets on a device. No torch code."""
from modules.latency import nn_meter, onnxruntime_int8, published  # registers platforms
from modules.latency.platform import (
    LatencyPredictor,
    Prediction,
    check_platform,
    get_available_platforms,
    get_platform,
    predict_subnets,
    register_platform,
    register_platform_family,
)
from modules.latency.profile import profiled  # registers those that a profile made

__all__ = ["LatencyPredictor", "Prediction", "check_platform", "get_available_platforms", "get_platform", "nn_meter",
           "onnxruntime_int8", "predict_subnets", "profiled", "published", "register_platform",
           "register_platform_family"]
