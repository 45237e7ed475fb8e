"""Platforms made by a profile: a folder with `platform.json` and the model of block latencies."""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np

from modules.latency.cache import cache_folder
from modules.latency.fitted.block_model import BlockModel
from modules.latency.fitted.platform import ModelPlatform
from modules.latency.platform import register_platform_source
from modules.latency.prediction import Prediction
from modules.latency.profile.wholenet import TERMS, Correction, block_terms
from modules.modeling.net_spec import NetSpec
from modules.modeling.spec import BlockArgs
from modules.runtime.devices import DeviceOptions
from modules.utils.errors import UserError, shorten
from modules.utils.files import REPOSITORY
from modules.utils.json_files import check_form, is_finite, read_json

RECORD, MODEL = "platform.json", "model.npz"
SHIPPED = REPOSITORY / "data" / "latency"


class ProfiledPlatform(ModelPlatform):
    """Latencies of blocks: `model` predicts blocks timed alone, `correction` brings them to blocks within a network.

    The latencies of blocks add up to that of their network, in block tables too.
    """

    def __init__(self, model: BlockModel, correction: Correction):
        super().__init__(model)
        self.correction = correction

    def price_blocks(self, blocks: Sequence[BlockArgs], hws: Sequence[tuple[int, int]]) -> Prediction:
        """Latencies of `blocks` within a network, on inputs of `hws` pixels; arrays of shape (len(blocks),)."""
        return corrected(self.correction, super().price_blocks(blocks, hws), block_terms(blocks, hws))

    def correct_sums(self, specs: Sequence[NetSpec], sums: Prediction) -> Prediction:
        """Latencies of networks; arrays of shape (len(specs),). Their deviation was measured in the profile.

        A network with a block outside the fitted domain is at least as uncertain as its blocks.
        """
        std = sums.ms * self.correction.deviation
        return replace(sums, std=np.where(sums.extrapolated, np.fmax(std, sums.std), std))


def corrected(correction: Correction, alone: Prediction, terms: np.ndarray) -> Prediction:
    """Latencies within a network from latencies of blocks timed alone, with the same relative deviation."""
    ms = correction.apply(alone.ms, terms)
    return Prediction(ms, alone.std / alone.ms * ms, alone.extrapolated)


def load_profiled(folder: str | Path) -> ProfiledPlatform:
    """The platform in `folder`; UserError if a file is missing or damaged."""
    record = Path(folder) / RECORD
    form = {"correction": {"terms": [str], "coefficients": [float], "deviation": object}}
    content = read_record(folder, form)["correction"]
    if tuple(content["terms"]) != TERMS or len(content["coefficients"]) != len(TERMS):
        raise UserError(f"platform {str(record)!r}: {len(content['coefficients'])} coefficients of the terms "
                        f"{shorten(content['terms'])}; expected {list(TERMS)}. Run the profile again with --resume")
    deviation = content["deviation"]
    if not (isinstance(deviation, float) and math.isnan(deviation)) and not (is_finite(deviation) and deviation >= 0):
        raise UserError(f"platform {str(record)!r}: deviation {shorten(deviation)}; expected a number from 0 up, or "
                        "NaN if it is not known")
    correction = Correction(tuple(map(float, content["coefficients"])), float(deviation))
    return ProfiledPlatform(BlockModel.load(Path(folder) / MODEL), correction)


def read_record(folder: str | Path, form=dict) -> dict:
    """The contents of the record in `folder`, which have `form`; the bits of the weights of the timed networks and the
    options of the device are always among them. UserError if the file is missing or damaged."""
    path = Path(folder) / RECORD
    older = {"weight_bits": 8, "options": asdict(DeviceOptions())}  # of profiles that lack them
    content = older | read_json(path, "platform", form, finite=False)
    options = {"cpus": [int], "remote_python": str, "binary_dir": str, "bin_name": str, "taskset_mask": str,
               "use_xnnpack": bool}
    return check_form(content, {"weight_bits": int, "options": options}, f"platform {str(path)!r}")


def device_options(record: dict) -> DeviceOptions:
    """The options of the device of a profile, from the record that `read_record` read."""
    given = {field.name: record["options"][field.name] for field in fields(DeviceOptions)}
    return DeviceOptions(**given | {"cpus": tuple(given["cpus"])})


def user_folder() -> Path:
    """The folder of profiles with a plain name."""
    return cache_folder() / "platforms"


def profiled_names() -> list[str]:
    """Names of the shipped platforms and of the user's own."""
    found = (path.parent.name for folder in (SHIPPED, user_folder()) for path in sorted(folder.glob(f"*/{RECORD}")))
    return list(dict.fromkeys(found))


def find_profiled(name: str) -> Path | None:
    """The folder of platform `name`: a path, or else one of the user's, or else a shipped one; None if there is
    none."""
    if not name or name in (".", ".."):
        return None
    for folder in (Path(name), user_folder() / name, SHIPPED / name):
        if (folder / RECORD).is_file():
            return folder
    return None


@dataclass(frozen=True)
class _Profile:
    """Makes the platform in `folder`."""

    folder: Path

    def __call__(self) -> ProfiledPlatform:
        return load_profiled(self.folder)

    @property
    def weight_bits(self) -> int:
        return read_record(self.folder)["weight_bits"]


def _find(name: str) -> _Profile | None:
    folder = find_profiled(name)
    return _Profile(folder) if folder else None


register_platform_source(_find, profiled_names)
