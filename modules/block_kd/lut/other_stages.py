"""Latency of the stages that are not searched: first_conv, stage0, final_expand, feature_mix, logits.

A file `other_stages.json` holds for each platform and superspace: the origin of the figures ("source"), "smallest"
(resolution in pixels: ms of the smallest configuration) and perhaps "sampled" (resolution: a list of parts, each a list
of equally likely figures in ms; a configuration draws one figure of each part and adds them up).
If no file names the platform and superspace, the platform in `modules.latency` predicts these stages.
"""
from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np

from modules.latency import get_platform
from modules.modeling.complexity import blocks_of
from modules.modeling.net_spec import resolve
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.subnet_space import SubnetSpace
from modules.search_space.superspace import get_superspace
from modules.utils.errors import UserError, check_choice, shorten
from modules.utils.files import REPOSITORY, atomic_write
from modules.utils.json_files import check_form, read_json

FILE_NAME = "other_stages.json"
DEFAULT_FILE = REPOSITORY / "data" / "latency" / FILE_NAME
MODES = ("smallest", "sampled")
MOST_COMBINATIONS = 1_000_000  # of the parts of "sampled"
PREDICTED_SAMPLES = 200  # random configurations that a platform predicts for "sampled"


def load_other_stages(platform: str, superspace: str, resolutions: tuple[int, ...], mode: str = "smallest",
                      lut_folder: str | Path | None = None) -> tuple[np.ndarray, ...]:
    """The equally likely latencies (ms) of the other stages at each resolution, one array (n,) each, such as (200,); n
    is 1 for "smallest".

    `<lut_folder>/<superspace>/other_stages.json` wins over the file in `data/latency`: block tables from elsewhere can
    bring the rest of the network with them.

    Raises:
        UserError: an unknown platform, superspace, mode or resolution, or a file that cannot be read.
    """
    check_choice(mode, MODES, "way to treat the other stages")
    paths = [Path(lut_folder) / superspace / FILE_NAME] if lut_folder else []
    for path in (*paths, DEFAULT_FILE):
        content = _read(path)
        entry = content.get(platform, {}).get(superspace)
        if entry is None:
            continue
        if mode not in entry:
            raise UserError(f"--other_stages {mode}: {path} has only {', '.join(m for m in MODES if m in entry)} for "
                            f"platform {platform}, superspace {superspace}")
        where = f"{path} for platform {platform}"
        table = check_form(entry[mode], dict, where, mode)
        return tuple(_latencies(table, r, where) for r in resolutions)

    return tuple(_predict(get_platform(platform), superspace, r, mode) for r in resolutions)


def write_other_stages(folder: str | Path, platform: str, superspace: str, resolutions: tuple[int, ...]) -> None:
    """Write the latencies of the other stages on `platform` beside the block tables in `<folder>`. A search with these
    tables on another machine then adds latencies of the same device."""
    prices = get_platform(platform)
    entry = {"source": "predicted when the tables were built",
             "smallest": {str(r): round(float(_predict(prices, superspace, r, "smallest")[0]), 4) for r in resolutions},
             "sampled": {str(r): [_predict(prices, superspace, r, "sampled").round(4).tolist()] for r in resolutions}}
    with atomic_write(Path(folder) / FILE_NAME) as file:
        json.dump({platform: {superspace: entry}}, file)
        file.write("\n")


def _read(path: Path) -> dict:
    return read_json(path, "latency table", {str: {str: dict}}) if path.is_file() else {}


def _predict(platform, superspace: str, resolution: int, mode: str) -> np.ndarray:
    """Latencies on `platform` of the smallest configuration, or of random ones."""
    count = len(get_superspace(superspace).searched)
    if mode == "smallest":
        config = SupernetConfig(superspace, (0,) * count, (0,) * count)
        subnets = [SubnetSpace(config, (resolution,)).extreme(min)]
    else:
        config, rng = SupernetConfig(superspace, (0,) * count, (-1,) * count), np.random.default_rng(0)
        space = SubnetSpace(config, (resolution,))
        subnets = [space.sample(rng) for _ in range(PREDICTED_SAMPLES)]
    return np.array([_sum_of_other_stages(platform, config, subnet) for subnet in subnets])


def _sum_of_other_stages(platform, config: SupernetConfig, subnet: SubnetChoiceConfig) -> float:
    net = resolve(config, subnet)
    stages = [stage for stage, blocks in net.stages for _ in blocks]
    return sum((platform.predict_block(block, hw) for stage, (block, hw) in zip(stages, blocks_of(net), strict=True)
                if stage in config.space.fixed), 0.0)


def _latencies(table: dict, resolution: int, where: str) -> np.ndarray:
    value = table[check_choice(str(resolution), table, f"resolution in {where}")]
    parts = check_form(value, (float, [[float]]), where, f"latency at resolution {resolution}")
    parts = parts if isinstance(parts, list) else [[parts]]
    if not 0 < math.prod(map(len, parts)) <= MOST_COMBINATIONS:
        raise UserError(f"{where}: latency at resolution {resolution} has {math.prod(map(len, parts))} combinations of "
                        f"parts; allowed: 1 to {MOST_COMBINATIONS}")
    latencies = np.array([sum(combination) for combination in itertools.product(*parts)], dtype=float)
    if not np.all(np.isfinite(latencies)) or latencies.min() < 0:
        raise UserError(f"{where}: latency {shorten(value)} at resolution {resolution}; expected numbers from 0 up")
    return latencies
