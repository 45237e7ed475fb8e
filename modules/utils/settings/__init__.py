"""Settings: default, meaning, unit, bounds and choices of each in one place; see `option` and `config`."""
from modules.utils.settings.config import (
    add_arguments,
    check_settings,
    from_arguments,
    given_arguments,
    idle_settings,
    read_settings,
    setting,
    settings_of,
)
from modules.utils.settings.option import (
    BATCH,
    PIXELS,
    SEED,
    THREADS,
    TRAIN_BATCH,
    WORKERS,
    OptionType,
    Setting,
    option,
)
from modules.utils.settings.yaml_file import read_yaml

__all__ = ["BATCH", "PIXELS", "SEED", "THREADS", "TRAIN_BATCH", "WORKERS", "OptionType", "Setting", "add_arguments",
           "check_settings", "from_arguments", "given_arguments", "idle_settings", "option", "read_settings",
           "read_yaml", "setting", "settings_of"]
