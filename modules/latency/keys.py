"""A block and its input size as text, and back: `parse_key(block_key(*key)) == key`."""
from __future__ import annotations

from modules.modeling.spec import BlockArgs, get_available_blocks
from modules.utils.errors import UserError, check_choice

Key = tuple[BlockArgs, tuple[int, int]]
# Names in the published tables that differ from the block type.
_NAMES = {"FirstConv": "Conv", "FinalExpand": "Conv"}


def block_key(block: BlockArgs, hw: tuple[int, int]) -> str:
    """`kind_height_cin_cout_kernel_expand_stride_act`, the form of the published block tables."""
    expand = None if block.expand is None else f"{block.expand:g}"  # 4 and 4.0 are one ratio
    return f"{block.kind}_{hw[0]}_{block.cin}_{block.cout}_{block.kernel}_{expand}_{block.stride}_{block.act}"


def parse_key(key: str) -> Key:
    """The block and the input size in pixels that `key` names.

    Some keys write 0 or None for arguments that a block does not have. Kernel and stride of the classifier are 1 here.
    UserError for a key of another form, or an unknown block type.
    """
    parts = key.split("_")
    try:
        name, hw, cin, cout, kernel, expand, stride, act = parts
        hw, cin, cout, kernel, stride = (int(v) for v in (hw, cin, cout, kernel, stride))
        expand = None if expand == "None" else float(expand) or None
        if min(hw, cin, cout) < 1 or min(kernel, stride) < 0 or not 0 < (expand or 1) < float("inf"):
            raise ValueError
    except ValueError:
        raise UserError(f"key {key!r}; expected name_hw_cin_cout_kernel_expand_stride_act, as in "
                        "MobileNetV2ResBlock_14_112_112_3_4_1_relu6") from None
    name = name.removesuffix("Block")
    kind = check_choice(_NAMES.get(name, name), get_available_blocks(), f"block type of key {key!r}:")
    if kind == "Logits":
        kernel, stride, act = 1, 1, "None"
    return BlockArgs(kind, cin, cout, kernel, expand, stride, None if act == "None" else act), (hw, hw)
