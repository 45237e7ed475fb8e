"""Residual units of PlainNet, the networks of Zen-NAS (Lin et al., 2021), as block types.

`expand` is the hidden width as a share of the output width. A name that ends in Proj always has a projected shortcut,
whose convolution has a bias; one that ends in Chain has none; the others project where shapes differ.
"""
from __future__ import annotations

from modules.modeling.spec import NO_ARGS, BlockSpec, ConvSpec, register_block


def _unit(main, cin, cout, stride, act, project: bool, link: bool) -> BlockSpec:
    downsample = ConvSpec("downsample", cin, cout, stride=stride, bias=True,
                          used=project or stride > 1 or cin != cout)
    return BlockSpec(NO_ARGS, main, residual=link, downsample=downsample if link else None, post_act=act,
                     last=main[-1].name)


def _every_shortcut(kind: str):
    """Register a block function under `kind` with each kind of shortcut."""
    def decorator(function):
        register_block(kind, project=False, link=True)(function)
        register_block(f"{kind}Proj", project=True, link=True)(function)
        return register_block(f"{kind}Chain", project=False, link=False)(function)
    return decorator


@_every_shortcut("ZenKK")
def two_convolutions(cin, cout, kernel, expand, stride, act, project, link) -> BlockSpec:
    """Two k x k convolutions."""
    hidden = round(cout * expand)
    return _unit((ConvSpec("conv1", cin, hidden, kernel, stride, act=act), ConvSpec("conv2", hidden, cout, kernel)),
                 cin, cout, stride, act, project, link)


@_every_shortcut("ZenBottleneck")
def bottleneck(cin, cout, kernel, expand, stride, act, project, link) -> BlockSpec:
    """A k x k convolution between pointwise ones."""
    hidden = round(cout * expand)
    return _unit((ConvSpec("conv1", cin, hidden, act=act), ConvSpec("conv2", hidden, hidden, kernel, stride, act=act),
                  ConvSpec("conv3", hidden, cout)), cin, cout, stride, act, project, link)


@_every_shortcut("ZenInverted")
def inverted(cin, cout, kernel, expand, stride, act, project, link) -> BlockSpec:
    """A k x k depthwise convolution between pointwise ones; an activation follows the sum, too."""
    hidden = round(cout * expand)
    return _unit((ConvSpec("conv1", cin, hidden, act=act),
                  ConvSpec("conv2", hidden, hidden, kernel, stride, depthwise=True, act=act),
                  ConvSpec("conv3", hidden, cout)), cin, cout, stride, act, project, link)
