"""Platforms `nn_meter:<predictor>`: kernel predictors that the user has registered with nn-Meter."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modules.latency.block_sums import BlockSums
from modules.latency.nn_meter_ops import nn_meter_graph
from modules.latency.platform import register_platform_family
from modules.latency.prediction import Prediction
from modules.modeling.spec import BlockArgs
from modules.utils.errors import UserError

_INSTALL = "pip install nn-meter==2.0 'setuptools<81'"


@register_platform_family("nn_meter")
class NnMeterPlatform(BlockSums):
    """Latencies by nn-Meter's predictor `name`, which prices each block's kernels; it does not say how sure it is.

    Raises:
        UserError: nn-Meter is not installed, knows no such predictor, or cannot load it.
    """

    def __init__(self, name: str):
        super().__init__()
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
            raise UserError(f"platform nn_meter:{name} cannot be loaded: {type(error).__name__}: {error}") from None

    def price_blocks(self, blocks: Sequence[BlockArgs], hws: Sequence[tuple[int, int]]) -> Prediction:
        """Latencies of `blocks` on inputs of `hws` pixels; (len(blocks),) each."""
        ms = np.array([float(self.predictor.predict(nn_meter_graph(block, hw), "nnmeter-ir"))
                       for block, hw in zip(blocks, hws, strict=True)])
        return Prediction(ms, np.full(len(ms), np.nan), np.zeros(len(ms), bool))
