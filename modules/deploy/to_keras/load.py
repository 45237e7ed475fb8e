"""TensorFlow, imported only when used: the import takes up to ten seconds."""
from __future__ import annotations

import os
from contextlib import contextmanager, redirect_stdout

from modules.utils.errors import UserError


def import_tensorflow():
    """The modules `tensorflow` and `keras`; UserError if they are not installed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # no start-up messages
    try:
        import tensorflow
        from tensorflow import keras
    except ImportError as error:
        raise UserError(f"TensorFlow cannot be imported ({error}); pip install tensorflow-cpu==2.21.0 "
                        "(requirements.txt)") from None
    return tensorflow, keras


@contextmanager
def quiet():
    """Hide all output of TensorFlow, of its C++ part too."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
