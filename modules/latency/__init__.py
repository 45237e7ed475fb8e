"""Latency of blocks and subnets on a device. No torch code."""
from modules.latency import onnxruntime_int8  # registers the platform
from modules.latency.platform import LatencyPredictor, get_available_platforms, get_platform, register_platform

__all__ = ["LatencyPredictor", "get_available_platforms", "get_platform", "onnxruntime_int8", "register_platform"]
