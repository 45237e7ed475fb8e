"""A network layer by layer: output sizes, multiply-accumulates, parameters, and latencies of its blocks on a
platform."""
from __future__ import annotations

from collections.abc import Iterator

from modules.latency.platform import Platform
from modules.modeling.complexity import QUANTIZER_PARAMETERS, count_block, with_sizes
from modules.modeling.net_spec import NetSpec
from modules.modeling.spec import BlockSpec


def anatomy_rows(spec: NetSpec, platform: Platform | None = None) -> list[dict]:
    """Rows of a table, one for each layer with weights; norms count with their convolution.

    `macs` and `parameters` are whole numbers (without the quantisers' scalars), `output` is the size in pixels
    of the block's output. `block_ms` stands on the first row of each block: its predicted latency in ms.
    """
    rows, blocks = [], dict(spec.blocks)
    hw = (spec.resolution, spec.resolution)
    for name, (block, size) in zip(blocks, with_sizes(blocks.values(), hw), strict=True):
        ms = f"{platform.predict_block(block.args, size):.4f}" if platform else ""
        _, output = count_block(block, size)
        facts = {"block": name, "type": block.args.kind, "channels": f"{block.args.cin}-{block.args.cout}",
                 "output": f"{output[0]}x{output[1]}"}
        for layer, macs, parameters in _layers(block, size) or [("", 0, 0)]:
            rows.append(facts | {"layer": layer, "macs": macs, "parameters": parameters, "block_ms": ms})
            ms = ""
    return rows


def _layers(block: BlockSpec, hw: tuple[int, int]) -> list[tuple[str, int, int]]:
    """(name, multiply-accumulates, parameters) of the layers with weights."""
    found: dict[str, tuple[int, int]] = {}
    for name, macs, parameters in _counts(block, hw):
        before = found.get(name, (0, 0))
        found[name] = before[0] + macs, before[1] + parameters
    return [(name, *counts) for name, counts in found.items()]


def _counts(block: BlockSpec, hw) -> Iterator[tuple[str, int, int]]:
    for count in count_block(block, hw)[0]:
        scalars = QUANTIZER_PARAMETERS if count.macs else 0
        yield count.layer, count.macs, sum(count.parameters) - scalars
