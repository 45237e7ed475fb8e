"""Reading block tables: one csv file for every searched stage, candidate block and width window.

A row is one sub-stage: `k#w#e_k#w#e...,1xCxHxH,nsr,MFLOPs,Mparams,latency_ms`. The files lie in `<folder>/<superspace>`
or in its archive.
"""
from __future__ import annotations

import hashlib
import math
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from modules.block_kd.lut.archive import ARCHIVE, TableFile, find_table, read_table
from modules.block_kd.lut.rows import check_drawn, input_size
from modules.modeling.net_spec import stage_choice
from modules.search_space.config import SupernetConfig
from modules.search_space.superspace import StageTable, Superspace, get_superspace
from modules.utils.csv_files import parse_rows
from modules.utils.errors import UserError, shorten
from modules.utils.json_files import check_form, read_json
from modules.utils.settings import PIXELS

SETTINGS_FILE = "lut.json"  # beside the tables: the settings they were made with
ZERO_SHOT = "proxy:"  # prefix of the loss's name there, in tables of a training-free score


@dataclass(frozen=True)
class Rows:
    """The n rows of one table that belong to one resolution, ordered by loss; every field has n entries.

    `encodings` are their blocks, `k#w#e_k#w#e...`.
    """

    loss: np.ndarray
    latency: np.ndarray
    input_width: np.ndarray
    last_width: np.ndarray
    encodings: tuple[str, ...] = ()


Choice = tuple[int, int]  # block and window of one stage
StageRows = tuple[Rows, ...]  # one entry per resolution


@dataclass(frozen=True)
class BlockTables:
    """`stages[s][block, window][r]`: the rows of searched stage s at `resolutions[r]` (pixels); latency in ms."""

    superspace: str
    resolutions: tuple[int, ...]
    stages: tuple[dict[Choice, StageRows], ...]

    def of(self, config: SupernetConfig) -> list[StageRows]:
        """The rows of each stage of one space."""
        return [stage[choice] for stage, choice in zip(self.stages, choices(config), strict=True)]

    def only(self, configs: Iterable[SupernetConfig]) -> BlockTables:
        """The tables that `configs` need."""
        return replace(self, stages=tuple({choice: stage[choice] for choice in sorted(wanted)}
                                          for stage, wanted in zip(self.stages, _needed(configs), strict=True)))

    def relative(self) -> BlockTables:
        """The tables with the losses of every stage divided by their mean over its tables and resolutions.

        Stages whose losses differ in size then weigh alike in a sum: losses .2 and .4 of one stage become .67 and 1.33,
        as do 2 and 4 of another. The means depend on the tables that are here: divide those of the whole superspace.

        Raises:
            UserError: a stage whose losses are all 0.
        """
        stages = []
        for table, stage in zip(get_superspace(self.superspace).searched, self.stages, strict=True):
            mean = np.mean([rows.loss.mean() for resolutions in stage.values() for rows in resolutions])
            if not mean:
                raise UserError(f"all losses of {table.name} in the tables of {self.superspace} are 0 and cannot be "
                                "relative; allowed: --stage_losses published, without --zero_shot_lut_path")
            stages.append({choice: tuple(replace(rows, loss=rows.loss / mean) for rows in resolutions)
                           for choice, resolutions in stage.items()})
        return replace(self, stages=tuple(stages))

    def plus_losses(self, other: BlockTables, weight: float = 1.0) -> BlockTables:
        """The tables with `weight` times the losses of `other` added. Rows belong together if they have the same blocks
        and input width: .5 of one and .8 of its partner become 1.3. Latencies stay.

        Raises:
            UserError: a row without a partner.
        """
        stages = []
        for table, stage, others in zip(get_superspace(self.superspace).searched, self.stages, other.stages,
                                        strict=True):
            stages.append({choice: tuple(
                _add_losses(rows, partners, weight, f"{table.name}_{choice[0]}_{choice[1]}.csv")
                for rows, partners in zip(resolutions, others[choice], strict=True))
                for choice, resolutions in stage.items()})
        return replace(self, stages=tuple(stages))

    def latency_range(self, config: SupernetConfig, others: tuple[np.ndarray, ...]) -> tuple[float, float]:
        """Smallest sum of row latencies (ms) at the smallest resolution and largest sum at the largest, the other
        stages `others` included. Tables hold random rows: the true extremes may lie a little outside."""
        stages = self.of(config)
        return (float(sum(rows[0].latency.min() for rows in stages) + others[0].min()),
                float(sum(rows[-1].latency.max() for rows in stages) + others[-1].max()))

    def digest(self) -> str:
        """A fingerprint of all values."""
        sha = hashlib.sha256(repr((self.superspace, self.resolutions)).encode())
        for stage in self.stages:
            for choice, resolutions in stage.items():
                sha.update(repr(choice).encode())
                for rows in resolutions:
                    for column in (rows.loss, rows.latency, rows.input_width, rows.last_width):
                        sha.update(np.ascontiguousarray(column).tobytes())
        return sha.hexdigest()[:16]


def _add_losses(rows: Rows, partners: Rows, weight: float, name: str) -> Rows:
    losses = dict(zip(zip(partners.encodings, partners.input_width, strict=True), partners.loss, strict=True))
    added = [losses.get(key) for key in zip(rows.encodings, rows.input_width, strict=True)]
    if None in added:
        i = added.index(None)
        raise UserError(f"{name}: blocks {rows.encodings[i]} with input width {rows.input_width[i]} have a loss in one "
                        "folder of tables only; expected tables of eval_block_kd.py with the same --manual_seed and "
                        "--hw_list, and no fewer rows than the others (--num_samples_per_stage)")
    loss = rows.loss + weight * np.array(added, dtype=float)
    order = np.argsort(loss, kind="stable")
    return Rows(loss[order], rows.latency[order], rows.input_width[order], rows.last_width[order],
                tuple(rows.encodings[i] for i in order))


def choices(config: SupernetConfig) -> tuple[Choice, ...]:
    """(block, window) of every searched stage."""
    return tuple(zip(config.blocks, config.windows, strict=True))


def _needed(configs: Iterable[SupernetConfig]) -> list[set[Choice]]:
    """(block, window) of the tables that `configs` need, per searched stage."""
    return [set(stage) for stage in zip(*map(choices, configs), strict=True)]


def load_tables(folder: str | Path, superspace: str, resolutions: Iterable[int],
                configs: Iterable[SupernetConfig] | None = None, platform: str | None = None) -> BlockTables:
    """Read the tables that `configs` need (None: all of the superspace) from `<folder>/<superspace>`.

    A row belongs to every resolution that gives its input size at that stage. `platform` only completes the command in
    the error about a missing table.

    Raises:
        UserError: a missing folder or file, a malformed or non-finite row (file and line named), a value outside the
            superspace, a row of another resolution, a resolution without rows, or a repeated row.
    """
    space, folder, resolutions = get_superspace(superspace), Path(folder) / superspace, tuple(sorted(set(resolutions)))
    settings = found_settings(folder)
    needed = [{(b, w) for b in range(len(space.candidates)) for w in range(s.num_windows)} for s in space.searched]
    if configs is not None:
        needed = _needed(configs)
    stages = tuple(
        {choice: _read(table_file(folder, space, stage, choice, platform), space, stage, choice, resolutions, settings)
         for choice in sorted(wanted)}
        for stage, wanted in zip(space.searched, needed, strict=True)
    )
    return BlockTables(superspace, resolutions, stages)


def how_made(folder: str | Path, superspace: str, platform: str = "",
             resolutions: Iterable[int] = (), otherwise: str = "") -> tuple[str, tuple[int, ...]]:
    """The platform of the tables in `<folder>/<superspace>` and the resolutions (pixels) to read: those in
    `SETTINGS_FILE` beside them, or those given. Tables of another program lack that file; their platform is
    `otherwise`, if no other is given.

    Raises:
        UserError: no such folder, or no tables in it; no platform given or recorded, or another one given than
            recorded; a file that cannot be read.
    """
    place = Path(folder) / get_superspace(superspace).name
    if not place.is_dir():
        within = ", which is the folder of one superspace" if Path(folder).name == place.name else ""
        raise UserError(f"folder of block tables {str(folder)!r}{within}: it holds no folder {place.name}")
    if not any(place.glob("*.csv")) and not (place / ARCHIVE).is_file():
        raise UserError(f"folder {str(place)!r} holds no block tables; eval_block_kd.py writes them")
    recorded = found_settings(place)
    made_for, made_at = recorded.get("platform", ""), tuple(recorded.get("resolutions", ()))
    if made_for and platform and platform != made_for:
        raise UserError(f"--platform {platform}: the tables in {place} are of {made_for}; allowed: that, or "
                        "tables that eval_block_kd.py builds for the other device")
    if not (platform or made_for or otherwise):
        raise UserError(f"--platform is needed: the tables in {place} do not say their device; allowed: as for "
                        "published tables, onnx_lut or tflite27_cpu_int8")
    resolutions = tuple(resolutions) or made_at or get_superspace(superspace).block_kd_resolutions
    return platform or made_for or otherwise, resolutions


def drawn(folder: str | Path, superspace: str, configs: Iterable[SupernetConfig]) -> tuple[int, int, tuple[int, ...]]:
    """How the rows of the tables in `<folder>/<superspace>` that `configs` need were drawn: seed, at most how many for
    a table, and resolutions (pixels). Example: (0, 25, (24,)).

    Raises:
        UserError: as `load_tables`; tables that do not say their seed.
    """
    place = Path(folder) / get_superspace(superspace).name
    settings = found_settings(place)
    if not {"seed", "resolutions"} <= set(settings):
        raise UserError(f"the tables in {place} do not say how their rows were drawn ({SETTINGS_FILE}); expected "
                        "tables of eval_block_kd.py")
    resolutions = tuple(settings["resolutions"])
    tables = load_tables(folder, superspace, resolutions, configs)
    rows = max(sum(len(rows.loss) for rows in table) for stage in tables.stages for table in stage.values())
    return settings["seed"], rows, resolutions


def found_settings(folder: Path) -> dict:
    """The settings that the tables in `folder` were built with; empty if there is no file of them. UserError as
    `read_settings`."""
    path = folder / SETTINGS_FILE
    return read_settings(path) if path.is_file() else {}


def read_settings(path: Path) -> dict:
    """The settings that the tables beside `path` were built with; UserError if the file holds none."""
    what = "settings of block tables"
    recorded = read_json(path, what, {"settings": dict})["settings"]
    forms = {"platform": str, "resolutions": [int], "seed": int}
    check_form(recorded, {key: form for key, form in forms.items() if key in recorded}, f"{what} {str(path)!r}")
    low, high = PIXELS["low"], PIXELS["high"]
    seed, resolutions = recorded.get("seed", 0), recorded.get("resolutions", [high])
    if seed < 0 or not resolutions or not all(low <= pixels <= high for pixels in resolutions):
        raise UserError(f"{what} {str(path)!r}: seed {seed}, resolutions {shorten(resolutions)}; expected a seed from "
                        f"0 up and resolutions from {low} to {high}")
    return recorded


def is_zero_shot(settings: dict) -> bool:
    """Whether tables with these settings hold a training-free score in place of the students' losses."""
    return str(settings.get("loss_fn", "")).startswith(ZERO_SHOT)


def table_file(folder: Path, space: Superspace, stage: StageTable, choice: Choice,
               platform: str | None = None) -> TableFile:
    """The table of one stage, block and window; UserError with the command that builds it if it is missing."""
    name = f"{stage.name}_{choice[0]}_{choice[1]}.csv"
    table = find_table(folder, name)
    if table is None:
        raise UserError(f"missing block table {folder / name}; build it with: " + shlex.join([
            "python", "eval_block_kd.py", "--resume", "--superspace", space.name,
            *_made_with(folder, platform or space.default_platform), "--output_path", str(folder.parent)])
            + " and the other options of the first call")
    return table


def _made_with(folder: Path, platform: str) -> list[str]:
    """The platform and the score or the teacher of the tables in `folder`, as options of eval_block_kd.py; `platform`
    if they do not say it."""
    settings = found_settings(folder)
    options = ["--platform", settings.get("platform", platform)]
    if is_zero_shot(settings):
        return [*options, "--proxy", settings["loss_fn"].removeprefix(ZERO_SHOT)]
    return [*options, *(["--teacher_arch", str(settings["teacher"])] if settings.get("teacher") else [])]


def _read(path: TableFile, space: Superspace, stage: StageTable, choice: Choice,
          resolutions: tuple[int, ...], settings: dict) -> StageRows:
    sizes = [input_size(space, stage, r) for r in resolutions]
    columns: list[tuple[int, int, int, float, float]] = []
    keys: list[str] = []
    for number, fields, row in table_rows(path, space, stage, choice):
        if row[0] not in sizes:
            raise UserError(f"{path}, line {number}: input size {row[0]}; the resolutions "
                            f"{', '.join(map(str, resolutions))} give {', '.join(map(str, sizes))} here "
                            "(--hw_list names the resolutions of the table)")
        columns.append(row)
        keys.append(",".join(fields[:2]))
    if {"seed", "resolutions"} <= set(settings):
        check_drawn(str(path), keys, settings["seed"], (space.name, stage.name, *choice), settings["resolutions"])
    table = np.array(columns, dtype=float).reshape(-1, 5)
    for size, resolution in zip(sizes, resolutions, strict=True):
        if size not in table[:, 0]:
            raise UserError(f"{path}: no row for resolution {resolution} (input size {size}); --hw_list names the "
                            "resolutions of the table")
    return tuple(_rows(table, keys, table[:, 0] == size) for size in sizes)


def table_rows(path: TableFile, space: Superspace, stage: StageTable,
               choice: Choice) -> Iterator[tuple[int, list[str], tuple[int, int, int, float, float]]]:
    """The rows of a table: number of the line, fields, and input size, input width, last width, loss and latency (ms).

    Raises:
        UserError: a malformed or non-finite row (file and line named), a value outside the superspace.
    """
    parser = _RowParser(space, stage, choice)
    for number, fields in parse_rows(read_table(path), f"block table {str(path)!r}"):
        try:
            row = parser(fields)
        except (ValueError, UserError) as error:
            raise UserError(f"{path}, line {number}: {error}") from None
        yield number, fields, row


def _rows(table: np.ndarray, keys: list[str], ours: np.ndarray) -> Rows:
    # Ordered by loss, so that one uniform number picks rows of similar rank in any two tables (see `SampleEstimator`).
    order = np.flatnonzero(ours)
    order = order[np.argsort(table[order, 3], kind="stable")]
    table = table[order]
    return Rows(table[:, 3].copy(), table[:, 4].copy(), table[:, 1].astype(int), table[:, 2].astype(int),
                tuple(keys[i].partition(",")[0] for i in order))


def row_numbers(fields: list[str]) -> list[float]:
    """Loss, million multiply-accumulates, million parameters and latency (ms) of a row; ValueError if it is bad."""
    if len(fields) != 6:
        raise ValueError(f"{len(fields)} fields in {shorten(','.join(fields))}; expected 6: blocks, 1xCxHxH, loss, "
                         "MFLOPs, Mparams, latency_ms")
    numbers = [float(field) for field in fields[2:]]
    if not all(math.isfinite(n) and n >= 0 for n in numbers):
        raise ValueError(f"{','.join(fields[2:])!r}; the last four fields must be finite and not negative")
    return numbers


class _RowParser:
    """Parses and checks rows of one table. Blocks repeat from row to row; each distinct one is checked once."""

    def __init__(self, space: Superspace, stage: StageTable, choice: Choice):
        self.stage, self.input_widths = stage, space.previous(stage.name).widths
        position, count = space.searched.index(stage), len(space.searched)
        blocks, windows = [0] * count, [0] * count
        blocks[position], windows[position] = choice
        self.config = SupernetConfig(space.name, tuple(blocks), tuple(windows))
        self.widths: dict[str, int] = {}

    def __call__(self, fields: list[str]) -> tuple[int, int, int, float, float]:
        """Input size, input width, last width, loss and latency (ms) of one row; ValueError or UserError if bad."""
        numbers = row_numbers(fields)
        blocks, shape = fields[0].split("_"), fields[1].split("x")
        if len(blocks) not in self.stage.depths:
            raise ValueError(f"{len(blocks)} blocks in {fields[0]!r}; allowed: "
                             f"{', '.join(map(str, self.stage.depths))}")
        if len(shape) != 4 or shape[0] != "1" or shape[2] != shape[3] or not (shape[1] + shape[2]).isdecimal():
            raise ValueError(f"input shape {fields[1]!r}; expected 1xCxHxH, as in 1x32x80x80")
        if int(shape[1]) not in self.input_widths:
            raise ValueError(f"input width {shape[1]} in {fields[1]!r}; allowed: "
                             f"{', '.join(map(str, self.input_widths))}")
        return int(shape[2]), int(shape[1]), [self._width(b) for b in blocks][-1], numbers[0], numbers[3]

    def _width(self, block: str) -> int:
        if block not in self.widths:
            self.widths[block] = stage_choice(self.config, self.stage.name, block)[1][0].width
        return self.widths[block]
