"""The file of a `BlockModel`, read and checked: its parts must fit together."""
from __future__ import annotations

from pathlib import Path

import numpy as np

from modules.latency.fitted.domain import LEVELS, Domain
from modules.latency.fitted.features import KERNEL_KINDS, TERMS
from modules.latency.fitted.kernel_model import KernelModel
from modules.latency.fitted.spread import Spread
from modules.latency.fitted.trees import Trees
from modules.utils.archives.arrays import read_arrays
from modules.utils.errors import UserError
from modules.utils.json_files import check_form, parse_json
from modules.utils.text import decode_text

_FORM = {
    "domain": {"types": [str], "low": [[int]], "high": [[int]], "options": [[str]], "heights": [[int]]},
    "known": [bool], "spread": (type(None), {"factors": [float], "correlation": float, "least": [float]})}
_NUMBERS = 5  # of a block in `Domain.low` and `high`


def read_parts(path: str | Path) -> tuple[KernelModel, Domain, Trees | None, Spread | None]:
    """The fields of the `BlockModel` in a file; UserError if it is missing, damaged or something else."""
    where, names = f"latency model {str(path)!r}", ("kernel_trees", "trees", "spread_trees")
    values = read_arrays(path, "latency model")
    check_form(values, {"meta": np.ndarray, "coefficients": np.ndarray}, where)
    texts = {name: decode_text(values[name].tobytes(), f"{where}, {name}") for name in ("meta", *names)
             if name in values}
    meta = parse_json(texts["meta"], f"{where}, meta", _FORM)
    trees = {name: Trees(texts[name], f"{where}, {name}") if name in texts else None for name in names}
    kernels = KernelModel(values["coefficients"], tuple(meta["known"]), trees["kernel_trees"])
    domain = Domain.from_dict(meta["domain"])
    spread = Spread.from_dict(meta["spread"], trees["spread_trees"]) if meta["spread"] else None
    for fault in (_kernel_fault(kernels), _domain_fault(domain), _spread_fault(spread, domain)):
        if fault:
            raise UserError(f"{where}: {fault}")
    return kernels, domain, trees["trees"], spread


def _kernel_fault(kernels: KernelModel) -> str:
    table, shape = kernels.coefficients, (len(KERNEL_KINDS), TERMS)
    if table.shape != shape or table.dtype.kind != "f" or not np.isfinite(table).all() or table.min() < 0:
        return f"coefficients are {table.dtype} {table.shape}; expected {shape}, finite, from 0 up"
    if len(kernels.known) != len(KERNEL_KINDS):
        return f"known has {len(kernels.known)} entries; expected {len(KERNEL_KINDS)}"
    return ""


def _domain_fault(domain: Domain) -> str:
    columns = {name: getattr(domain, name) for name in ("low", "high", "options", "heights")}
    wrong = [name for name, column in columns.items() if len(column) != len(domain.types) or not column]
    wrong += [name for name in ("low", "high") if any(len(numbers) != _NUMBERS for numbers in columns[name])]
    return f"domain.{wrong[0]} does not fit its {len(domain.types)} block types" if wrong else ""


def _spread_fault(spread: Spread | None, domain: Domain) -> str:
    if spread is None:
        return ""
    if spread.trees is None:
        return "it has a spread, but no spread_trees"
    if len(spread.factors) != LEVELS or min(spread.factors) < 0:
        return f"spread.factors are {spread.factors}; expected {LEVELS} numbers from 0 up"
    if len(spread.least) not in (0, len(domain.types)):
        return f"spread.least has {len(spread.least)} entries; expected {len(domain.types)}, or none"
    return "" if -1 <= spread.correlation <= 1 else f"spread.correlation is {spread.correlation}; expected -1 to 1"
