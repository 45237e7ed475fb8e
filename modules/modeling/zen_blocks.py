"""Residual units of PlainNet, the networks of Zen-NAS (Lin et al., 2021), as block types.

`expand` is the hidden width as a share of the output width. In a name, SE stands for squeeze-and-excitation before the
last convolution. A name that ends in Proj always has a projected shortcut, whose convolution has a bias; one that ends
in Chain has none. The others project if the shapes differ.
"""
from __future__ import annotations

from modules.modeling.spec import NO_ARGS, BlockSpec, ConvSpec, SESpec, register_block


def _unit(main, cin, cout, stride, act, project: bool, link: bool, se: bool) -> BlockSpec:
    downsample = ConvSpec("downsample", cin, cout, stride=stride, bias=True,
                          used=project or stride > 1 or cin != cout)
    if se:
        hidden = main[-1].cin
        main = (*main[:-1], SESpec(hidden, max(1, round(hidden / 4)), gate="sigmoid", norm=True), main[-1])
    return BlockSpec(NO_ARGS, main, residual=link, downsample=downsample if link else None, post_act=act,
                     last=main[-1].name)


def _every_form(kind: str):
    """Register a block function under `kind` with each kind of shortcut, with and without squeeze-and-excitation."""
    def decorator(function):
        for se, name in ((False, kind), (True, f"{kind}SE")):
            register_block(name, project=False, link=True, se=se)(function)
            register_block(f"{name}Proj", project=True, link=True, se=se)(function)
            register_block(f"{name}Chain", project=False, link=False, se=se)(function)
        return function
    return decorator


@_every_form("ZenKK")
def two_convolutions(cin, cout, kernel, expand, stride, act, **form) -> BlockSpec:
    """Two k x k convolutions."""
    hidden = round(cout * expand)
    return _unit((ConvSpec("conv1", cin, hidden, kernel, stride, act=act), ConvSpec("conv2", hidden, cout, kernel)),
                 cin, cout, stride, act, **form)


@_every_form("ZenBottleneck")
def bottleneck(cin, cout, kernel, expand, stride, act, **form) -> BlockSpec:
    """A k x k convolution between pointwise ones."""
    hidden = round(cout * expand)
    return _unit((ConvSpec("conv1", cin, hidden, act=act), ConvSpec("conv2", hidden, hidden, kernel, stride, act=act),
                  ConvSpec("conv3", hidden, cout)), cin, cout, stride, act, **form)


@_every_form("ZenInverted")
def inverted(cin, cout, kernel, expand, stride, act, **form) -> BlockSpec:
    """A k x k depthwise convolution between pointwise ones; an activation follows the sum, too."""
    hidden = round(cout * expand)
    return _unit((ConvSpec("conv1", cin, hidden, act=act),
                  ConvSpec("conv2", hidden, hidden, kernel, stride, depthwise=True, act=act),
                  ConvSpec("conv3", hidden, cout)), cin, cout, stride, act, **form)
