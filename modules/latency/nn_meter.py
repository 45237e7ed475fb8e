"""Platforms `nn_meter:<predictor>`: kernel predictors that the user has registered with nn-Meter."""
from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence

import numpy as np

from modules.latency.block_sums import BlockSums
from modules.latency.keys import block_key
from modules.latency.nn_meter_ops import nn_meter_graph
from modules.latency.platform import register_platform_family
from modules.latency.prediction import Prediction
from modules.modeling.spec import BlockArgs
from modules.utils.errors import UserError, first_line

_INSTALL = "pip install nn-meter==2.0 'setuptools<81'"


@register_platform_family("nn_meter")
class NnMeterPlatform(BlockSums):
    """Latencies by nn-Meter's predictor `name`, which predicts each block's kernels. Their uncertainty is not known.

    Raises:
        UserError: nn-Meter is not installed, knows no such predictor, or cannot load it.
    """

    def __init__(self, name: str):
        super().__init__()
        self.name, self.warned = name, set()
        try:
            import nn_meter
        except Exception as error:  # not only ImportError: pkg_resources has errors of its own
            raise UserError(f"platform nn_meter:{name}: {error}; {_INSTALL}") from None
        import logging

        logging.getLogger("nn-Meter").setLevel(logging.WARNING)  # it prints two lines per prediction
        known = sorted({entry["name"] for entry in nn_meter.list_latency_predictors()})
        if name not in known:
            raise UserError(f"platform nn_meter:{name}: nn-Meter has no predictor {name!r}; registered: "
                            f"{', '.join(known)}")
        try:
            self.predictor = nn_meter.load_latency_predictor(name)
        except Exception as error:  # a download, a pickle of another version: anything may be raised
            raise UserError(f"platform nn_meter:{name} cannot be loaded: {type(error).__name__}: "
                            f"{first_line(error)}") from None

    def price_blocks(self, blocks: Sequence[BlockArgs], hws: Sequence[tuple[int, int]]) -> Prediction:
        """Latencies of `blocks` on inputs of `hws` pixels; arrays of shape (len(blocks),).

        The predictor may lack a kernel. Such a kernel is taken to move values as fast as the block's other kernels.
        Such a latency counts as extrapolated; a warning names the kernel once.

        Raises:
            UserError: the predictor fails, or has none of a block's kernels.
        """
        priced = [self._price(block, hw) for block, hw in zip(blocks, hws, strict=True)]
        ms, extrapolated = (np.array(column) for column in zip(*priced, strict=True))
        return Prediction(ms, np.full(len(ms), np.nan), extrapolated)

    def _price(self, block: BlockArgs, hw: tuple[int, int]) -> tuple[float, bool]:
        graph = nn_meter_graph(block, hw)
        try:
            ms = float(self.predictor.predict(graph, "nnmeter-ir"))
            kernels = self.predictor.kd.get_kernels()
        except Exception as error:  # anything, a pickle's own code among it
            raise UserError(f"platform nn_meter:{self.name} fails at block {block_key(block, hw)}: "
                            f"{type(error).__name__}: {first_line(error)}") from None
        missing = [kernel for kernel in kernels if not self._has(kernel)]
        known = sum(map(moved_values, kernels)) - sum(map(moved_values, missing))
        if not known:
            raise UserError(f"platform nn_meter:{self.name} has none of the kernels of block {block_key(block, hw)} "
                            f"({', '.join(kernel['op'] for kernel in kernels)}); it has: "
                            f"{', '.join(sorted(self.predictor.kernel_predictors))}")
        self._warn(kernel["op"] for kernel in missing)
        return ms * (1 + sum(map(moved_values, missing)) / known), bool(missing)

    def _has(self, kernel: dict) -> bool:
        from nn_meter.predictor.prediction.extract_feature import get_predict_features
        from nn_meter.predictor.prediction.utils import get_kernel_name

        # nn-Meter adds nothing for a kernel whose features it cannot find, even if it has a predictor of the kernel.
        told = bool(get_predict_features([kernel]))
        return told and get_kernel_name(kernel["op"]) in self.predictor.kernel_predictors

    def _warn(self, kinds: Iterable[str]) -> None:
        new = sorted(set(kinds) - self.warned)
        if new:
            self.warned.update(new)
            print(f"platform nn_meter:{self.name} has no predictor of kernel {', '.join(new)}: priced by the values it "
                  "moves, as fast as the other kernels of its block (~ marks such latencies)", file=sys.stderr)


def moved_values(kernel: dict) -> int:
    """Number of values that a kernel of nn-Meter reads and writes, without weights."""
    stride = kernel["strides"][0] if "strides" in kernel else 1
    written = kernel["cout"] * -(-kernel["inputh"] // stride) * -(-kernel["inputw"] // stride)
    return written + sum(math.prod(shape) for shape in kernel["input_tensors"])
