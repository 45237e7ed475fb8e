"""Macro architectures, superspaces and choices in them: tables and values, no torch code."""
from modules.search_space import baselines, networks, tables  # imports that register the superspaces
from modules.search_space.superspace import (
    Candidate,
    StageTable,
    Superspace,
    get_available_superspaces,
    get_superspace,
    register_superspace,
)

__all__ = ["Candidate", "StageTable", "Superspace", "baselines", "get_available_superspaces", "get_superspace",
           "networks", "register_superspace", "tables"]
