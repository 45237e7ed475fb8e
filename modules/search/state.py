"""The state file of a search: which search it is of, and everything that continuing needs."""
from __future__ import annotations

import json
from pathlib import Path

from modules.utils.errors import UserError

STATE_FILE = "state.json"


def check_no_search(path: Path, resume: bool, overwrite: bool) -> None:
    """UserError if there is a state file that is neither to be continued nor to be replaced."""
    if path.exists() and not (resume or overwrite):
        raise UserError(f"{path.parent} holds a search already; continue it with --resume or replace it with "
                        "--overwrite")


def read_state(path: Path, identity: dict) -> dict:
    """The contents of a state file; UserError if there is none, or it is of a search of another `identity`."""
    try:
        state = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"--resume: no {path}; run without --resume to start a search") from None
    except json.JSONDecodeError as error:
        raise UserError(f"--resume: {path}: {error}") from None
    for key, value in json.loads(json.dumps(identity)).items():
        if state["identity"].get(key) != value:
            raise UserError(f"--resume: {key} is {value!r}, but {path} was written with "
                            f"{state['identity'].get(key)!r}; give the same, or run without --resume")
    return state
