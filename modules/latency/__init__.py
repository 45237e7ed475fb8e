"""Latency of blocks and subnets on a device. No torch code."""
from modules.latency import nn_meter, onnxruntime_int8
from modules.latency.platform import (
    check_platform,
    get_available_platforms,
    predict_subnets,
    register_platform,
    register_platform_family,
)
from modules.latency.prediction import Prediction
from modules.latency.predictor import LatencyPredictor, get_platform
from modules.latency.profile import profiled  # registers the platforms that profiles made
from modules.latency.published import platforms as published

__all__ = ["LatencyPredictor", "Prediction", "check_platform", "get_available_platforms", "get_platform", "nn_meter",
           "onnxruntime_int8", "predict_subnets", "profiled", "published", "register_platform",
           "register_platform_family"]
