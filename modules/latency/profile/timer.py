"""Measurements of whole int8 networks on the device of a platform."""
from __future__ import annotations

import atexit
from collections.abc import Callable
from pathlib import Path

from modules.latency.profile.profiled import device_options, find_profiled, read_record
from modules.modeling.net_spec import NetSpec
from modules.utils.errors import UserError

Timer = Callable[[NetSpec], float]  # latency of the int8 network in ms


def network_timer(name: str, platform, option: str = "--measure_best") -> Timer:
    """The function that measures networks on `platform`; `name` is the platform's name.

    onnxruntime_int8 measures by itself. A platform made by a profile uses the device, engine and number of threads of
    the profile. Each network runs in turns with a reference block; its latency is scaled to the speed of the platform's
    own measurements.

    Raises:
        UserError: the platform cannot measure, or the device is not the profiled one.
    """
    if hasattr(platform, "measure_subnet"):
        return platform.measure_subnet
    folder = find_profiled(name)
    if folder is None:
        raise UserError(f"{option}: platform {name or '(none)'} does not measure networks; allowed: onnxruntime_int8, "
                        "or a platform that python -m modules.latency.profile made")
    return _ProfiledTimer(folder, f"{option}: platform {name}")


class _ProfiledTimer:
    def __init__(self, folder: Path, where: str):
        from modules.latency.profile.measure import open_reference
        from modules.latency.profile.models import file_form
        from modules.runtime.devices import open_device

        form = {"device": str, "backend": str, "threads": int, "batch": int, "machine": dict, "reference_ms": float}
        record = read_record(folder, form)
        self.backend, self.reference_ms = record["backend"], record["reference_ms"]
        self.weight_bits = record["weight_bits"]
        options = device_options(record)
        self.form = file_form(self.backend, record["device"], options.use_xnnpack)
        self.device = open_device(record["device"], self.backend, record["threads"], record["batch"], options)
        atexit.register(self.device.stop)
        machine = self.device.describe()
        if machine != record["machine"]:
            raise UserError(f"{where} does not measure networks here: it is of {_words(record['machine'])}, this is "
                            f"{_words(machine)}; allowed: onnxruntime_int8, or a profile of this device")
        open_reference(self.device, self.backend)

    def __call__(self, spec: NetSpec) -> float:
        from modules.latency.profile.measure import measure
        from modules.latency.profile.models import net_model

        measured = measure(self.device, net_model(self.form, spec, self.weight_bits))
        return measured.ms * self.reference_ms / measured.reference_ms


def _words(machine: dict) -> str:
    return ", ".join(f"{name} {value}" for name, value in machine.items())
