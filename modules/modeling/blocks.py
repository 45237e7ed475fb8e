"""The torch form of a block. One class serves supernets (largest layers, sliced) and subnets (exact layers)."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from modules.modeling.integer_bias import fold_norm, rounding_error, weight_scales
from modules.modeling.ops.activations import ACTIVATIONS
from modules.modeling.ops.batch_norm import DynamicBatchNorm2d, Normed, plain
from modules.modeling.ops.dynamic_op import DynamicQConv, DynamicQLinear
from modules.modeling.ops.lsq_plus import QBase
from modules.modeling.placement import INPUT, gate_name, materialized
from modules.modeling.spec import BlockSpec, ConvSpec, LinearSpec, SESpec
from modules.modeling.tensors import TensorQuant, code_step
from modules.modeling.walk import walk


class ConvNorm(nn.Module):
    """The convolution (`conv`, or `dwconv` if it is depthwise) and norm of one `ConvSpec`.

    A stack of depthwise convolutions is a container: `dwconv0`, `dwconv1` ... in supernets, `0`, `1` ... in subnets,
    as published.
    """

    def __init__(self, spec: ConvSpec, elastic: bool):
        super().__init__()
        if spec.stack:
            convs = {f"dwconv{i}" if elastic else str(i): _conv(spec, stride) for i, stride in enumerate(spec.strides)}
            self.dwconv = nn.ModuleDict(convs)
        else:
            setattr(self, "dwconv" if spec.depthwise else "conv", _conv(spec, spec.stride))
        self.norm = DynamicBatchNorm2d(spec.cout)

    def forward(self, x: torch.Tensor | Normed, spec: ConvSpec, between=lambda x, i: x) -> torch.Tensor | Normed:
        """Run the slice `spec` on (N, C, H, W), such as (8, 24, 56, 56). `between(x, i)` maps the output of member i of
        a stack to the input of the next."""
        if spec.stack:
            *first, last = list(self.dwconv.values())[: spec.stack]
            for i, conv in enumerate(first):
                x = between(conv(x), i)
            y = last(x)
        else:
            last = self.dwconv if spec.depthwise else self.conv
            y = last(x, spec.cout, spec.kernel)
        y = self.norm.deferred(y)
        step = code_step(x)
        if step is None or self.norm.training:
            return y
        factor, bias = fold_norm(self.norm, spec.cout)
        error = rounding_error(bias, weight_scales(factor, last.weight_scale), step)
        return y + error.view(-1, 1, 1)


def _conv(spec: ConvSpec, stride: int) -> DynamicQConv:
    conv = DynamicQConv(spec.cin, spec.cout, spec.kernel, stride, spec.kernel // 2,
                        groups=spec.cin if spec.depthwise else 1, bias=spec.bias)
    conv.same = spec.same
    return conv


class Block(nn.Module):
    """A block with the layers of `spec`.

    Args:
        spec: the largest configuration (elastic) or the only one.
        elastic: build unused layers too, under the published names of supernets.
    """

    def __init__(self, spec: BlockSpec, elastic: bool):
        super().__init__()
        self.spec, self.elastic = spec, elastic
        self.dropout_rate = 0.0
        self.tensors = nn.ModuleDict()  # quantisers of the block's tensors, under placement "engine"
        for layer in spec.layers:
            if layer.used or elastic:
                self._add(layer, elastic)

    def _add(self, layer, elastic: bool) -> None:
        if isinstance(layer, ConvSpec):
            self.add_module(layer.name, ConvNorm(layer, elastic))
        elif isinstance(layer, SESpec):
            self.se = nn.Module()
            self.se.fc = nn.ModuleDict({
                name: ConvNorm(conv, elastic) if conv.norm else _conv(conv, 1)
                for name, conv in (("reduce", layer.reduce), ("expand", layer.expand))})
        elif isinstance(layer, LinearSpec):
            self.add_module(layer.name, DynamicQLinear(layer.cin, layer.cout))

    def own_tensors(self, with_input: bool, device: torch.device) -> None:
        """Give every tensor that an engine materialises a quantiser of its own on `device`, and with `with_input` the
        block's input too. The layers then do not quantise their input."""
        for module in self.modules():
            if isinstance(module, QBase):
                module.quantized_input = True
        names = {INPUT: ""} if with_input else {}
        for name, kind in (names | materialized(self.spec, self.elastic)).items():
            self.tensors[module_name(name)] = TensorQuant(name, kind).to(device).train(self.training)

    def forward(self, x: torch.Tensor, spec: BlockSpec | None = None) -> torch.Tensor:
        """Run the configuration `spec`, by default the whole block, on (N, C, H, W), such as (8, 24, 56, 56)."""
        operations = TorchOps(self)
        return plain(walk(spec or self.spec, operations, operations.tensor(x, INPUT)))


def module_name(tensor: str) -> str:
    """The name of the module of a tensor, without dots."""
    return tensor.replace(".", "_")


class TorchOps:
    """Walk backend that runs the modules of `block`. Between its operations a tensor may be a `Normed`."""

    def __init__(self, block: Block):
        self.block = block

    def owns(self, name: str) -> bool:
        """Whether the block's tensor `name` has a quantiser."""
        return len(self.block.tensors) > 0 and module_name(name) in self.block.tensors

    def tensor(self, x, name: str):
        """`x` in the codes of the block's tensor `name`; `x` itself if it has no quantiser."""
        return self.block.tensors[module_name(name)](x) if self.owns(name) else x

    def conv(self, x, layer: ConvSpec):
        module = self.block.get_submodule(layer.name)
        if layer.norm:
            y = module(x, layer, lambda x, i: self.tensor(x, f"{layer.name}.{i}"))
        else:
            y = module(x, layer.cout)
            y = _with_engine_bias(y, module, code_step(x), hard_sigmoid=layer.act == "hard_sigmoid")
        return self.tensor(y, layer.name)

    def act(self, x, kind: str, name: str):
        if isinstance(x, Normed):
            if activated := x.activated(kind):
                return self.tensor(activated, name)
            x = x.tensor()
        if kind == "swish" and self.owns(gate_name(name)):
            return self.tensor(x * self.tensor(x.sigmoid(), gate_name(name)), name)
        return self.tensor(ACTIVATIONS[kind](x), name)

    def pool(self, x, name: str):
        return self.tensor(plain(x).mean((2, 3), keepdim=True), name)

    def mul(self, x, gate, name: str):
        return self.tensor(plain(x) * plain(gate), name)

    def add(self, shortcut, x, name: str):
        return self.tensor(plain(shortcut) + plain(x), name)

    def linear(self, x, layer: LinearSpec):
        module = self.block.get_submodule(layer.name)
        y = module(F.dropout(plain(x).flatten(1), self.block.dropout_rate, self.block.training), layer.cout)
        return _with_engine_bias(y, module, code_step(x))


def _with_engine_bias(y: torch.Tensor, module: QBase, step: torch.Tensor | None,
                      hard_sigmoid: bool = False) -> torch.Tensor:
    """The result `y` of a layer without norm, with the engine's bias. `step` is the step of the input's codes (None:
    the input has no codes)."""
    if step is None or module.bias is None:
        return y
    bias = module.bias[: y.shape[1]].detach().double()
    error = rounding_error(bias, weight_scales(torch.ones_like(bias), module.weight_scale), step, hard_sigmoid)
    return y + error.view(-1, *(1,) * (y.ndim - 2))
