"""The network of a structure string."""
from __future__ import annotations

from modules.modeling.net_spec import NetSpec
from modules.modeling.spec import BlockArgs, build_block
from modules.search_space.networks.rows import Row
from modules.search_space.networks.structure import Structure


def structure_net(structure: Structure, resolution: int, classes: int, shortcuts: bool = True) -> NetSpec:
    """The network of `structure` for images of `resolution` pixels; without `shortcuts` its units form a plain
    chain."""
    cin, body = structure.blocks[0].cin, []
    for row in structure.rows(shortcuts):
        body.append(_block(row, cin))
        cin = row.cout
    head = structure.head()
    return NetSpec((("body", tuple(body)), ("pool", (_block(head["feature_mix"], cin),)),
                    ("logits", (build_block(BlockArgs("Logits", cin, classes, 1, act=None)),))), resolution)


def _block(row: Row, cin: int):
    return build_block(BlockArgs(row.block, cin, row.cout, row.kernel, row.expand, row.stride, row.act))
