"""The weight-sharing network of a search space."""
from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from modules.modeling.blocks import Block
from modules.modeling.net_spec import NetSpec, largest_stage, resolve
from modules.modeling.network import QNetwork, resize
from modules.modeling.ops.dynamic_op import slice_like
from modules.modeling.ops.lsq_plus import QBase
from modules.modeling.placement import INPUT
from modules.modeling.spec import BlockSpec
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.subnet_space import SubnetSpace

if TYPE_CHECKING:
    from modules.search_space.subnet_space import Rng

__all__ = ["ElasticStage", "SubnetChoiceConfig", "Supernet", "SupernetConfig"]

HEAD = "stages.logits.blocks.0."  # prefix of the classifier's parameters


class ElasticStage(nn.Module):
    """The largest blocks of one stage; a configuration runs slices of the first of them."""

    def __init__(self, blocks: tuple[BlockSpec, ...]):
        super().__init__()
        self.blocks = nn.ModuleList(Block(block, elastic=True) for block in blocks)

    def forward(self, x: torch.Tensor, specs: tuple[BlockSpec, ...]) -> torch.Tensor:
        """Run the first `len(specs)` blocks in the configurations `specs` on (N, C, H, W), such as (8, 24, 56, 56)."""
        for block, spec in zip(self.blocks, specs, strict=False):
            x = block(x, spec)
        return x


def copy_slice(source: nn.Module, target: nn.Module) -> None:
    """Fill the subnet module `target` with its slices of the supernet module `source`."""
    modules = dict(source.named_modules())
    with torch.no_grad():
        for name, module in target.named_modules():
            origin = modules[_elastic_name(name)]
            tensors = {**origin._parameters, **origin._buffers}
            for key, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is not None:
                    tensor.copy_(slice_like(tensors[key], tensor.shape))
            if isinstance(module, QBase):
                module.copy_quantizer_mode(origin)
            if isinstance(module, nn.BatchNorm2d):
                module.eps = origin.eps
            module.training = origin.training


def _elastic_name(name: str) -> str:
    # Members of a depthwise stack are called "0" in subnets and "dwconv0" in supernets.
    container, _, member = name.rpartition(".")
    return f"{container}.dwconv{member}" if container.endswith("dwconv") and member.isdigit() else name


class Supernet(nn.Module):
    """All subnets of a search space in one set of weights.

    One subnet is active at a time; `forward` runs it. After construction it is the largest one.

    Args:
        config: the search space.
        num_classes: width of the classifier.
        resolutions: input resolutions in pixels; those of the superspace when None.
    """

    def __init__(self, config: SupernetConfig, num_classes: int = 1000, resolutions: tuple[int, ...] | None = None):
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.subnets = SubnetSpace(config, tuple(resolutions or config.space.resolutions))
        self.stages = nn.ModuleDict({
            s.name: ElasticStage(largest_stage(config, s.name, num_classes)) for s in config.space.stages})
        self._rng = np.random.default_rng(0)
        self.resolution_limit: int | None = None  # images above it are resized to it, not to the subnet's resolution
        self.set_max_subnet()

    @classmethod
    def build_from_str(cls, encoding: str, num_classes: int = 1000,
                       resolutions: Iterable[int] | None = None) -> Supernet:
        """From `<superspace>-<block digits>[-<window digits>]`."""
        return cls(SupernetConfig.from_str(encoding), num_classes, resolutions)

    @classmethod
    def build_from_config(cls, config: SupernetConfig, num_classes: int = 1000,
                       resolutions: Iterable[int] | None = None) -> Supernet:
        """From a `SupernetConfig`."""
        return cls(config, num_classes, resolutions)

    @property
    def active_spec(self) -> NetSpec:
        """The structure of the active subnet."""
        return self._active_spec

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised images (N, 3, H, W) to the active subnet's logits (N, classes), such as (8, 3, 224, 224) to (8,
        1000)."""
        resolution = self._active_spec.resolution
        x = resize(x, min(resolution, self.resolution_limit or resolution))
        for name, specs in self._active_spec.stages:
            x = self.stages[name](x, specs)
        return x

    def set_active_subnet(self, choice: str | SubnetChoiceConfig) -> SubnetChoiceConfig:
        """Activate a subnet given by its value or string; UserError if it is not one of the space's."""
        if isinstance(choice, str):
            choice = SubnetChoiceConfig.from_str(choice)
        self.subnets.check(choice)
        self._active, self._active_spec = choice, resolve(self.config, choice, self.num_classes)
        return choice

    def set_max_subnet(self) -> SubnetChoiceConfig:
        """Activate the largest subnet."""
        return self.set_active_subnet(self.subnets.extreme(max))

    def set_min_subnet(self) -> SubnetChoiceConfig:
        """Activate the smallest subnet."""
        return self.set_active_subnet(self.subnets.extreme(min))

    def sample_active_subnet(self, rng: Rng | None = None, align: bool = False) -> SubnetChoiceConfig:
        """Activate a uniformly drawn subnet; see `SubnetSpace.sample`.

        Args:
            rng: numpy Generator or RandomState. None: the supernet's own, with seed 0: the n-th draws of two supernets
                of one space agree.
        """
        return self.set_active_subnet(self.subnets.sample(self._rng if rng is None else rng, align))

    def mutate(self, choice: SubnetChoiceConfig, rng: Rng, arch_prob: float = 0.3,
               resolution_prob: float = 0.5) -> SubnetChoiceConfig:
        """Activate a mutant of `choice`; see `SubnetSpace.mutate`."""
        return self.set_active_subnet(self.subnets.mutate(choice, rng, arch_prob, resolution_prob))

    def crossover(self, a: SubnetChoiceConfig, b: SubnetChoiceConfig, rng: Rng) -> SubnetChoiceConfig:
        """Activate a child of `a` and `b`; see `SubnetSpace.crossover`."""
        return self.set_active_subnet(self.subnets.crossover(a, b, rng))

    def get_active_subnet_config(self) -> SubnetChoiceConfig:
        """The active subnet as a value."""
        return self._active

    def get_active_subnet(self) -> QNetwork:
        """The active subnet as a network of its own, with a copy of its weights, statistics and quantiser mode."""
        device = next(self.parameters()).device
        subnet = QNetwork(self._active_spec).to(device)
        for stage, blocks in subnet.stages.items():
            for source, target in zip(self.stages[stage].blocks, blocks, strict=False):
                if source.tensors:
                    target.own_tensors(INPUT in source.tensors, device)
                copy_slice(source, target)
        return subnet.train(self.training)

    @property
    def head(self) -> Block:
        """The classifier."""
        return self.stages["logits"].blocks[0]

    def set_dropout_rate(self, rate: float) -> None:
        """Dropout probability before the classifier, in training. Extracted subnets have none."""
        self.head.dropout_rate = rate

    def zero_last_gamma(self) -> None:
        """Zero the last norm weight of every residual branch, so that blocks start as their shortcut."""
        for stage in self.stages.values():
            for block in stage.blocks:
                if block.spec.last:
                    nn.init.zeros_(block.get_submodule(block.spec.last).norm.weight)
