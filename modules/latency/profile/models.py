"""Real int8 model files of blocks and networks with synthetic weights, with the structure and the writers of the
export."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from modules.deploy.graph.builder import AnyRange, SyntheticWeights, build_graph
from modules.deploy.graph.graph import Graph
from modules.modeling.net_spec import NetSpec
from modules.modeling.spec import BlockArgs, BlockSpec, build_block


def _onnx(graph: Graph) -> bytes:
    from modules.deploy.to_onnx.writer import onnx_bytes

    return onnx_bytes(graph)


def _tflite(graph: Graph, grouped: bool = True) -> bytes:
    from modules.deploy.to_tflite.float_writer import Form
    from modules.deploy.to_tflite.writer import tflite_bytes

    return tflite_bytes(graph, form=Form(grouped))


BACKENDS = ("onnxruntime", "openvino", "litert")
_PLAIN = "litert_plain"  # the form for TFLite's own kernels
WRITERS: dict[str, Callable[[Graph], bytes]] = {
    "onnxruntime": _onnx, "openvino": _onnx, "litert": _tflite, _PLAIN: partial(_tflite, grouped=False)}
REFERENCE = (BlockArgs("MobileNetV2Res", 32, 32, 3, 4, 1, "relu6"), (28, 28))  # about 0.1 ms on one x86 core


def file_form(backend: str, device: str, use_xnnpack: bool) -> str:
    """The form of files, a key of `WRITERS`, that is fastest under `backend` on `device`: on a phone without XNNPACK
    large depthwise filters stay what they are."""
    return _PLAIN if backend == "litert" and device.startswith("adb") and not use_xnnpack else backend


def block_model(runtime: str, block: BlockArgs, hw: tuple[int, int], weight_bits: int = 8) -> bytes:
    """The int8 model of one block on an input of `hw` pixels, in the form of `runtime`, a key of `WRITERS`."""
    return _model(runtime, [("block", build_block(block))], (block.cin, *hw), weight_bits)


def net_model(runtime: str, spec: NetSpec, weight_bits: int = 8) -> bytes:
    """The int8 model of a network."""
    return _model(runtime, spec.blocks, (spec.blocks[0][1].args.cin, spec.resolution, spec.resolution), weight_bits)


def _model(runtime: str, blocks: Sequence[tuple[str, BlockSpec]], shape: tuple[int, int, int],
           weight_bits: int) -> bytes:
    graph = build_graph(list(blocks), SyntheticWeights(bits=weight_bits), shape)
    graph.ranges = AnyRange()
    return WRITERS[runtime](graph)
