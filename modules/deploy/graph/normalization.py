"""Models that take images as bytes: the normalisation becomes a part of the first convolution."""
from __future__ import annotations

from dataclasses import replace

import numpy as np

from modules.deploy.graph.graph import INPUT, PIXELS, Graph
from modules.modeling.codes import MOST_STEPS
from modules.utils.errors import UserError


def fold_normalization(graph: Graph, mean: tuple[float, ...], std: tuple[float, ...]) -> Graph:
    """`graph` on bytes p = 0 ... 255 instead of on x = (p / 255 - mean) / std.

    A channel that is 255 all over the image is added to it; its weights carry the means. The padding around the image
    is zero in this channel too, so the padding stays zero in x. No single value of p would do that. In an int8 graph
    the first layer's weights are rounded to codes anew: trained codes times 1 / std are no codes. The trained rounding
    of the input falls away.

    Raises:
        UserError: the input of the graph is read by anything but one dense convolution.
    """
    readers = graph.consumers[INPUT]
    if len(readers) != 1 or readers[0].op != "conv" or readers[0].groups != 1:
        raise UserError(f"the normalisation needs one dense convolution on the input; it is read by "
                        f"{', '.join(node.output for node in readers)}")
    node = readers[0]
    weight = (node.weight if node.codes is None else node.codes * node.scales.reshape(-1, 1, 1, 1)).astype(np.float64)
    mean, std = (np.asarray(values, np.float64).reshape(1, -1, 1, 1) for values in (mean, std))
    colours, ones = weight / (255 * std), -(weight * mean / std).sum(1, keepdims=True) / 255
    weight = np.concatenate((colours, ones), 1)
    fields = {"weight": weight.astype(np.float32)}
    if node.codes is not None:
        scales = np.maximum(np.abs(weight).max((1, 2, 3)), 1e-12) / 127
        # A channel without weights keeps a scale that its bias fits at.
        scales = np.maximum(scales, np.abs(node.bias) / MOST_STEPS)
        fields |= {"codes": np.round(weight / scales.reshape(-1, 1, 1, 1)).astype(np.int8),
                   "scales": scales.astype(np.float32), "quantizer": PIXELS, "bits": 8}
    nodes = [replace(node, **fields) if other is node else other for other in graph.nodes]
    quantizers = graph.quantizers and {**graph.quantizers, INPUT: PIXELS}
    return replace(graph, nodes=nodes, quantizers=quantizers, pixels=True)
