"""Import of torchvision, even if its wheel was built for CUDA and torch for the CPU.

Such a wheel cannot load its compiled operators, and its Python part then fails while it registers shape functions for
two of them. Declaring the two operators (names and types only) is enough for transforms, datasets and models to work.
"""

import sys

_MISSING_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declarations = None  # torch forgets the operators when this object is collected


def import_torchvision():
    """Return the torchvision module. All code of the project imports torchvision through this function."""
    try:
        import torchvision
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
        _declare_missing_operators()
        # The failed import leaves submodules behind that a second import would take for complete.
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        import torchvision
    return torchvision


def _declare_missing_operators():
    global _declarations
    if _declarations is None:
        import torch

        _declarations = torch.library.Library("torchvision", "DEF")
        for schema in _MISSING_OPERATORS:
            _declarations.define(schema)
