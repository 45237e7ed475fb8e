"""Files that engines run, of networks whose bits are those of whole layers."""
from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from modules.adjustable.network import AdjustableNetwork
from modules.adjustable.quantizer import AdjustableQuantizer
from modules.deploy.check.agreement import Agreement, compare
from modules.deploy.graph.graph import INPUT, Graph, Quantizer, WeightNode
from modules.deploy.graph.lower import silence_dead
from modules.deploy.graph.ranges import best_ranges
from modules.deploy.naming import model_path, trained_metadata
from modules.deploy.to_onnx.writer import write_onnx
from modules.deploy.to_tflite.writer import write_tflite
from modules.modeling.blocks import module_name
from modules.modeling.placement import HARD_SIGMOID_SHIFT
from modules.runtime.engines import open_model
from modules.runtime.session import summarize, time_interleaved
from modules.search_space.config import SubnetChoiceConfig
from modules.training.subnet_evaluator import SubnetEvaluator
from modules.utils.errors import UserError
from modules.utils.files import write_manifest
from modules.utils.results import write_rows

WRITERS = {"onnx": write_onnx, "tflite": write_tflite}
# Where weights of 4 bits are of 4 bits: in onnxruntime's file and not in its kernels, in LiteRT's neither.
STORED = {"onnx": "int4 in the file, int8 kernels", "tflite": "int8 that are 4-bit values"}
TABLE = "export.csv"


@dataclass(frozen=True)
class Row:
    """One file: its size, its median latency with half the distance of the 10th and 90th percentile, the share of
    images with the network's answer, and its own accuracy."""

    file: str
    precision: str
    kilobytes: float
    ms: float
    spread_ms: float
    agreement: float
    top1: float


@torch.no_grad()
def engine_graph(network: AdjustableNetwork, batches) -> Graph:
    """The integer graph of `network` (granularity "layer"): its codes, its tensors' quantisers, and the ranges of the
    other tensors chosen on `batches` of images.

    Raises:
        UserError: bits per channel, which no engine has, or weights that are not quantised.
    """
    if not network.settings.engine:
        raise UserError("the network has bits per channel, which no engine has; train it with --granularity layer")
    if network.settings.mix_prec:
        raise UserError("the network has weights in float (--mix_prec); integer files need all of them quantised")
    quantizers = {name: _quantizer(network.tensors[module_name(name)]) for name in (INPUT, *network.placement.learned)}
    graph = replace(float_graph(network), quantizers=quantizers)
    gates = {node.inputs[0] for node in graph.nodes if node.kind == "hard_sigmoid"}
    graph.nodes = [_coded(node, network, quantizers, node.output in gates) if isinstance(node, WeightNode) else node
                   for node in graph.nodes]
    graph.ranges = best_ranges(network, graph, list(batches), lambda net, images, seen: net.observe(images, seen))
    return graph


def float_graph(network: AdjustableNetwork) -> Graph:
    """The graph with the network's trained weights, in float."""
    nodes = [replace(node, weight=_array(layer.weight), bias=_array(layer.bias), codes=None, scales=None,
                     quantizer=None) if (layer := _layer(network, node)) else node for node in network.nodes]
    return replace(network.graph, nodes=nodes, quantizers={}, ranges={})


def _layer(network: AdjustableNetwork, node):
    return network.layers[module_name(node.output)] if isinstance(node, WeightNode) else None


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _quantizer(quantizer: AdjustableQuantizer) -> Quantizer:
    low, scale, _ = (float(value) for value in quantizer.grid())
    return Quantizer(np.float32(1 / scale), round(-low * scale))


def _coded(node: WeightNode, network: AdjustableNetwork, quantizers: dict[str, Quantizer], gate: bool) -> WeightNode:
    quantizer = _layer(network, node).weight_quantizer
    _, scale, top = quantizer.grid()
    column = (-1,) + (1,) * (node.weight.ndim - 1)
    scale, most = _array(scale), float(top[0]) / 2
    codes = np.clip(np.round(node.weight * scale.reshape(column)), -most, most).astype(np.int8)
    source = quantizers[node.inputs[0]]
    bias = node.bias + HARD_SIGMOID_SHIFT if gate else node.bias  # as the plan writes it
    codes, scales = silence_dead(codes, (1 / scale).astype(np.float32), bias, source)
    return replace(node, codes=codes, scales=scales, quantizer=source, bits=int(quantizer.bits()[0]))


def export_engines(network: AdjustableNetwork, evaluator: SubnetEvaluator, choice: SubnetChoiceConfig,
                   folder: str | Path, formats: tuple[str, ...], runs: int = 100) -> list[Row]:
    """Write the network in each of `formats`, and the same in float to compare with; returns a row for each file.

    Every file stands beside a manifest with its agreement with the network on the whole validation part. Latencies are
    those of one thread, measured in turns. The rows are in export.csv, too.
    """
    network = network.cpu().eval()
    graphs = {"fp32": float_graph(network), "mixed": engine_graph(network, evaluator.calibration)}
    metadata, sessions, rows = trained_metadata(evaluator, choice), {}, []
    for form in formats:
        for precision, graph in graphs.items():
            path = _path(folder, evaluator, choice, precision, form)
            WRITERS[form](graph, path, metadata)
            sessions[form, precision] = path, open_model(path)
    times = time_interleaved({key: session for key, (_, session) in sessions.items()}, runs)
    for (form, precision), (path, session) in sessions.items():
        agreement = compare(network.quantize(precision == "mixed"), session, evaluator.validation_batches())
        ms, spread = summarize(times[form, precision])
        rows.append(Row(path.name, precision, path.stat().st_size / 1e3, ms, spread, agreement.percent,
                        agreement.top1_model))
        _write_manifest(path, choice, network, agreement, rows[-1], form)
    network.quantize()
    write_rows(Path(folder) / TABLE, [asdict(row) for row in rows])
    return rows


def _path(folder: str | Path, evaluator: SubnetEvaluator, choice: SubnetChoiceConfig, precision: str,
          form: str) -> Path:
    path = model_path(folder, evaluator.space, choice, int8=False)
    return path.with_name(f"{path.stem}_adj_{precision}.{form}")


def _write_manifest(path: Path, choice: SubnetChoiceConfig, network: AdjustableNetwork, agreement: Agreement, row: Row,
                    form: str) -> None:
    bits = {name: int(values[0]) for name, values in network.bits()[0].items()} if row.precision == "mixed" else None
    write_manifest(path, subnet=str(choice), agreement=vars(agreement), ms=row.ms, spread_ms=row.spread_ms,
                   weight_bits=bits, four_bits=STORED[form] if bits else None)
