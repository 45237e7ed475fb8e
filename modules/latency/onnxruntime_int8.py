"""Platform `onnxruntime_int8`: this machine. Blocks are built as int8 ONNX graphs and timed, each once."""
from __future__ import annotations

import atexit
import platform as host

import numpy as np

from modules.latency.cache import LatencyCache
from modules.latency.platform import register_platform, sum_of_blocks
from modules.modeling.net_spec import NetSpec
from modules.modeling.spec import BlockArgs, build_block

RUNS, WARMUP, THREADS = 21, 3, 1
_REFERENCE = BlockArgs("MobileNetV2Res", 32, 32, 3, 4, 1, "relu6")
_REFERENCE_HW = (28, 28)
_REFERENCE_KEY = "reference"


@register_platform("onnxruntime_int8")
class OnnxRuntimeInt8:
    """Latency of int8 blocks under onnxruntime on one thread of this machine, in milliseconds.

    Each block runs in turns with a reference block; its latency is the median ratio to the reference, times what the
    reference took when the cache was begun. So a machine whose speed drifts gives consistent figures. A subnet's
    latency is the sum over its blocks; measured as a whole it is usually longer, and `onnx_tools/benchmark.py` does.
    """

    def __init__(self):
        import onnxruntime

        from modules.utils.files import machine

        self.cache = LatencyCache("onnxruntime_int8", {
            **machine(), "host": host.node(), "onnxruntime": onnxruntime.__version__, "threads": THREADS})
        self._reference = None
        atexit.register(self.cache.save)

    def predict_block(self, block: BlockArgs, hw: tuple[int, int]) -> float:
        """Latency of `block` on an input of `hw` pixels; measured on first use, about 10 ms plus 24 runs."""
        return self.cache.get(block_key(block, hw), lambda: self._measure(block, hw))

    def predict_subnet(self, spec: NetSpec) -> float:
        """Sum of the latencies of the network's blocks."""
        latency = sum_of_blocks(self, spec)
        self.cache.save()  # so that a search that was killed here sees the same figures when it goes on
        return latency

    def _measure(self, block: BlockArgs, hw: tuple[int, int]) -> float:
        from modules.deploy.ort import time_interleaved

        if self._reference is None:
            self._reference = _session(_REFERENCE, _REFERENCE_HW)
            alone = time_interleaved({_REFERENCE_KEY: self._reference}, 10 * RUNS, RUNS)[_REFERENCE_KEY]
            self.cache.get(_REFERENCE_KEY, lambda: float(np.median(alone)))
        times = time_interleaved({_REFERENCE_KEY: self._reference, "block": _session(block, hw)}, RUNS, WARMUP)
        ratio = np.median(times["block"]) / np.median(times[_REFERENCE_KEY])
        return float(ratio * self.cache.values[_REFERENCE_KEY])


def block_key(block: BlockArgs, hw: tuple[int, int]) -> str:
    """`kind_height_cin_cout_kernel_expand_stride_act`, the form of the published block tables."""
    expand = None if block.expand is None else f"{block.expand:g}"  # 4 and 4.0 are one ratio
    return f"{block.kind}_{hw[0]}_{block.cin}_{block.cout}_{block.kernel}_{expand}_{block.stride}_{block.act}"


def _session(block: BlockArgs, hw: tuple[int, int]):
    from modules.deploy.builder import AnyRange, SyntheticWeights, build_graph
    from modules.deploy.onnx_writer import onnx_bytes
    from modules.deploy.ort import open_session

    graph = build_graph([("block", build_block(block))], SyntheticWeights(), (block.cin, *hw))
    graph.ranges = AnyRange()
    return open_session(onnx_bytes(graph), THREADS)
