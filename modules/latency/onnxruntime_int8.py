"""Platform `onnxruntime_int8`: this machine. Blocks are built as int8 ONNX graphs; each is timed once."""
from __future__ import annotations

import atexit
import hashlib
import os
import platform as host
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from modules.latency.block_sums import BlockSums
from modules.latency.cache import LatencyCache
from modules.latency.keys import block_key
from modules.latency.platform import register_platform
from modules.latency.prediction import Prediction
from modules.modeling.net_spec import NetSpec
from modules.modeling.spec import BlockArgs
from modules.runtime.runner import products_saturate
from modules.search_space import get_superspace

RUNTIME, THREADS = "onnxruntime", 1
CORRECTION_NETS = 10  # networks of a superspace that are measured whole


@register_platform("onnxruntime_int8")
class OnnxRuntimeInt8(BlockSums):
    """Latency of int8 blocks under onnxruntime on one thread of this machine, in milliseconds.

    Each block runs in turns with a reference block; its latency is scaled to the speed that the machine had when the
    cache was begun. A subnet's latency is the sum over its blocks, corrected by a few whole networks of its superspace,
    which are measured once too. A platform of `modules.latency.profile` predicts blocks without measuring each one.
    """

    weight_bits = 8

    def __init__(self):
        super().__init__()
        import onnxruntime

        from modules.utils.files import machine

        facts = machine()
        self.cache = LatencyCache("onnxruntime_int8", {
            **facts, "host": host.node(), "onnxruntime": onnxruntime.__version__, "threads": THREADS,
            "timing": "fastest quarter", "weights": "all codes of their bits",
            # Until they were left to processors that need them, all had the slow kernels; with AVX-VNNI that counted.
            **({"slow kernels": products_saturate()} if "avx_vnni" in facts["int8"] else {})})
        self._device = None
        self._corrections = {}
        atexit.register(self.cache.save)

    def price_blocks(self, blocks: Sequence[BlockArgs], hws: Sequence[tuple[int, int]]) -> Prediction:
        """Latencies of single `blocks` on inputs of `hws` pixels, of shape (len(blocks),). A block that is not in the
        cache takes about 50 ms.

        The error of a cached latency is not known: standard deviations are nan.
        """
        from modules.latency.profile.models import block_model

        def measured() -> list[float]:
            return [self._measured(block_key(block, hw), partial(block_model, RUNTIME, block, hw,
                                                                   self.weight_bits))
                    for block, hw in zip(blocks, hws, strict=True)]

        measured()
        self.cache.save()  # a search that is killed here and continued sees the same figures: those in the file
        ms = np.array(measured(), dtype=float)
        return Prediction(ms, np.full(len(ms), np.nan), np.zeros(len(ms), bool))

    def correct_sums(self, specs: Sequence[NetSpec], sums: Prediction) -> Prediction:
        """Latencies of networks, of shape (len(specs),). A network of no superspace keeps its sum, marked as
        extrapolated."""
        from modules.latency.profile.design import superspace_of
        from modules.latency.profile.wholenet import net_terms

        names = np.array([superspace_of(spec) for spec in specs], dtype=str)
        result = replace(sums, ms=sums.ms.copy(), std=sums.std.copy(), extrapolated=names == "")
        for name in set(names) - {""}:
            ours, correction = np.flatnonzero(names == name), self._correction(name)
            result.ms[ours] = correction.apply(sums.ms[ours], net_terms([specs[i] for i in ours]))
            result.std[ours] = result.ms[ours] * correction.deviation
        return result

    def measure_subnet(self, spec: NetSpec) -> float:
        """Measured latency of a whole network; it is kept in the cache."""
        from modules.latency.profile.models import net_model

        digest = hashlib.sha256(repr(spec).encode()).hexdigest()[:16]
        ms = self._measured(f"net:{digest}", lambda: net_model(RUNTIME, spec, self.weight_bits))
        self.cache.save()
        return ms

    def usual_reference(self) -> tuple[bytes, float]:
        """The file of the reference block, and its latency in ms when the cache was begun. A file that runs in turns
        with it has its latency scaled by the ratio of the two."""
        from modules.latency.profile.measure import reference_model

        self._open_device()
        return reference_model(RUNTIME), self.cache.values["reference"]

    def _correction(self, superspace: str):
        if superspace not in self._corrections:
            from modules.latency.profile.design import draw_nets
            from modules.latency.profile.models import net_model
            from modules.latency.profile.wholenet import fit_correction, net_terms

            space = get_superspace(superspace)
            nets = draw_nets(space, space.resolutions, CORRECTION_NETS, np.random.default_rng(0))
            specs = [net.spec for net in nets]
            def measure_all() -> np.ndarray:
                return np.array([self._measured(str(net), lambda spec=spec: net_model(RUNTIME, spec, self.weight_bits))
                                 for net, spec in zip(nets, specs, strict=True)])

            measure_all()
            self.cache.save()  # takes the figures of a process that was quicker
            self._corrections[superspace] = fit_correction(self.sum_blocks(specs).ms, net_terms(specs), measure_all())
        return self._corrections[superspace]

    def _measured(self, key: str, build: Callable[[], bytes]) -> float:
        of_bits = key if self.weight_bits == 8 else f"w{self.weight_bits}:{key}"  # one cache, so one usual speed
        return self.cache.get(of_bits, lambda: self._measure(build()))

    def _measure(self, content: bytes) -> float:
        from modules.latency.profile.measure import measure

        self._open_device()
        measured = measure(self._device, content)
        return measured.ms * self.cache.values["reference"] / measured.reference_ms

    def _open_device(self) -> None:
        from modules.latency.profile.measure import measure_reference, open_reference
        from modules.runtime.devices import DeviceOptions, open_device

        if self._device is None:
            has_cores = hasattr(os, "sched_getaffinity")  # macOS has not
            cores = DeviceOptions(tuple(sorted(os.sched_getaffinity(0))) if has_cores else ())
            self._device = open_device("local", RUNTIME, THREADS, options=cores)
            atexit.register(self._device.stop)
            open_reference(self._device, RUNTIME)
            self.cache.get("reference", lambda: measure_reference(self._device))
            self.cache.save()  # and takes the figure of a process that was quicker: all latencies have one scale


@register_platform("onnxruntime_w7a8")
class OnnxRuntimeW7A8(OnnxRuntimeInt8):
    """The same for networks whose weights have 7 bits (`--quant_weight_bits 7`): quicker on x86 without VNNI."""

    weight_bits = 7
