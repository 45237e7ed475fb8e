"""Scores of untrained networks; higher is better. Inputs are noise, and no data set is read.

Every proxy is a function of (network, images per batch, generator). The network is a `QNetwork` in fp32; proxies leave
it in training mode with overwritten weights. The generator is of the CPU: a GPU scores the same weights and images.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from modules.modeling.blocks import TorchOps
from modules.modeling.net_spec import NetSpec
from modules.modeling.network import QNetwork
from modules.modeling.walk import walk
from modules.utils.errors import UserError
from modules.utils.registry import Registry
from modules.zero_shot.plain_view import body_length

GAMMA = 1e-2     # size of the perturbation in the Zen score
BN_EPS = 1e-3
LAYERS = (nn.Conv2d, nn.Linear)

Score = Callable[[QNetwork, int, torch.Generator], float]
_proxies: Registry[Score] = Registry("proxy")
register_proxy = _proxies.register  # decorator with the name for --zero_shot_score
register_proxy_source = _proxies.add_source
get_proxy, check_proxy = _proxies.__getitem__, _proxies.check
get_available_proxies = _proxies.names


NEEDS_NEW_NETWORK: set[Callable] = set()  # scores that keep the weights of the network: each draw is a new network


@dataclass(frozen=True)
class SpecScore:
    """A score of the structure alone; it needs no network."""

    compute: Callable[[NetSpec], float]

    def __call__(self, net: QNetwork, batch: int, generator: torch.Generator) -> float:
        """The score of a built network."""
        return self.compute(net.spec)


def register_spec_score(name: str) -> Callable[[Callable[[NetSpec], float]], Callable[[NetSpec], float]]:
    """Decorator that registers a function of a `NetSpec` as the score `name`."""
    def decorator(compute):
        register_proxy(name)(SpecScore(compute))
        return compute
    return decorator


def keeps_weights(score: Callable) -> Callable:
    """Decorator of a score that takes the weights of the network as they are."""
    NEEDS_NEW_NETWORK.add(score)
    return score


def prepare(net: QNetwork) -> QNetwork:
    """Set training mode, and the norms of Zen-NAS."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = BN_EPS
    return net.train()


def gaussian_init(net: QNetwork, generator: torch.Generator) -> None:
    """Draw weights of convolutions and linear layers from N(0, 1); biases become 0, norms the identity."""
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, LAYERS):
                module.weight.copy_(torch.empty(module.weight.shape).normal_(generator=generator))
            elif isinstance(module, nn.BatchNorm2d):
                module.weight.fill_(1)
            if isinstance(module, (*LAYERS, nn.BatchNorm2d)) and module.bias is not None:
                module.bias.zero_()


def noise(net: QNetwork, batch: int, generator: torch.Generator) -> torch.Tensor:
    """Images (batch, 3, R, R) from N(0, 1), such as (16, 3, 224, 224); see `input_shape`."""
    return torch.randn(input_shape(net, batch), generator=generator).to(device_of(net))


def input_shape(net: QNetwork, batch: int) -> tuple[int, int, int, int]:
    """(batch, 3, R, R) at the network's resolution R in pixels; a part of a network has its input's channels."""
    return batch, net.spec.blocks[0][1].args.cin, net.resolution, net.resolution


def random_labels(net: QNetwork, batch: int, generator: torch.Generator) -> torch.Tensor:
    """Classes (batch,), such as (16,), each as likely as another."""
    return torch.randint(net.spec.num_classes, (batch,), generator=generator).to(device_of(net))


def device_of(net: QNetwork) -> torch.device:
    """Where the network is."""
    return next(net.parameters()).device


def _body(net: QNetwork) -> nn.Sequential:
    """The blocks before the global mean."""
    return nn.Sequential(*(block for _, block in net.named_blocks()))[: body_length(net.spec)]


def activation_signs(net: QNetwork, images: torch.Tensor) -> list[torch.Tensor]:
    """For every activation of `net` a mask of its positive inputs, (N, values), such as (16, 75264)."""
    signs: list[torch.Tensor] = []
    with torch.no_grad():
        for _, block in net.named_blocks():
            images = walk(block.spec, _SignOps(block, signs), images)
    return signs


class _SignOps(TorchOps):
    """Runs a block and collects signs."""

    def __init__(self, block, signs):
        super().__init__(block)
        self.signs = signs

    def act(self, x, kind, name):
        self.signs.append((x > 0).flatten(1))
        return super().act(x, kind, name)


@register_proxy("Zen")
def zen(net: QNetwork, batch: int, generator: torch.Generator, gamma: float = GAMMA) -> float:
    """Zen score (Lin et al., ICCV 2021): ln of the mean change of the features under a perturbation of size `gamma`,
    plus, for every norm, ln of the deviation that it divides by.

    As published, the norms' variances are the running ones after two batches, 0.81 + 0.19 times the batches'. Each norm
    counts about 0.83 too little, and less so if the same network is scored again.
    """
    prepare(net)
    gaussian_init(net, generator)
    with torch.no_grad():
        images, change = noise(net, batch, generator), noise(net, batch, generator)
        body = _body(net)
        moved = body(images) - body(images + gamma * change)
        scale = sum(0.5 * torch.log(m.running_var.mean()) for m in body.modules() if isinstance(m, nn.BatchNorm2d))
        return (torch.log(moved.abs().sum((1, 2, 3)).mean()) + scale).item()


def _zen_of(name: str) -> Score | None:
    """The score `Zen:<gamma>`, of another size of the perturbation."""
    kind, _, text = name.partition(":")
    try:
        gamma = float(text) if kind == "Zen" and text else 0.0
    except ValueError:
        gamma = 0.0
    return partial(zen, gamma=gamma) if 0 < gamma < math.inf else None


register_proxy_source(_zen_of, form="Zen:GAMMA with GAMMA above 0")


@register_proxy("NASWOT")
def naswot(net: QNetwork, batch: int, generator: torch.Generator) -> float:
    """ln |det K| (Mellor et al., ICML 2021). K is (batch, batch), such as (16, 16): how many activations have the same
    sign for two images."""
    prepare(net)
    gaussian_init(net, generator)
    kernel = torch.zeros(batch, batch, dtype=torch.float64, device=device_of(net))
    for sign in activation_signs(net, noise(net, batch, generator)):
        on, off = sign.float(), (~sign).float()
        kernel += (on @ on.T + off @ off.T).double()
    return torch.linalg.slogdet(kernel).logabsdet.item()


@register_proxy("GradNorm")
def grad_norm(net: QNetwork, batch: int, generator: torch.Generator) -> float:
    """Norm of the gradient of the cross-entropy with random labels, over all parameters (Abdelfattah et al., ICLR
    2021)."""
    prepare(net)
    gaussian_init(net, generator)
    logits = net(noise(net, batch, generator))
    loss = F.cross_entropy(logits, random_labels(net, batch, generator))
    gradients = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
    return sum(g.double().square().sum() for g in gradients if g is not None).sqrt().item()


@register_proxy("Syncflow")
def synflow(net: QNetwork, batch: int, generator: torch.Generator) -> float:
    """Synaptic flow (Tanaka et al., 2020) in the form of Zen-NAS: batch norm stays, and the score is minus the sum over
    layers of the mean saliency of an output channel. UserError for a network with maps of one pixel: its one image has
    no batch norm there."""
    prepare(net)
    gaussian_init(net, generator)
    net.double()
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            if tensor.is_floating_point():
                tensor.abs_()
    layers = [m for m in net.modules() if isinstance(m, LAYERS)]
    ones = torch.ones(input_shape(net, 1), dtype=torch.float64, device=device_of(net))
    try:
        total = net(ones).sum()
    except ValueError:  # torch: more than one value per channel is needed
        raise UserError("the score Syncflow has no batch norm of maps of one pixel; allowed: larger resolutions, or "
                        "another score") from None
    gradients = torch.autograd.grad(total, [layer.weight for layer in layers])
    return -sum((layer.weight.detach() * g).abs().flatten(1).sum(1).mean().item()
                for layer, g in zip(layers, gradients, strict=True))


@register_proxy("NTK")
@keeps_weights
def ntk(net: QNetwork, batch: int, generator: torch.Generator) -> float:
    """Minus the condition number of the neural tangent kernel J J^T of the summed logits (Chen et al., ICLR 2021), with
    the network's own initialisation. J is (batch, weights); the number is at most 1 / eps of float32, 8.4e6."""
    prepare(net)
    weights = [p for name, p in net.named_parameters() if name.endswith("weight")]
    logits = net(noise(net, batch, generator))
    rows = []
    for one in logits:
        gradients = torch.autograd.grad(one.sum(), weights, retain_graph=True, allow_unused=True)
        rows.append(torch.cat([g.flatten() for g in gradients if g is not None]))
    jacobian = torch.stack(rows)
    values = torch.linalg.eigvalsh((jacobian @ jacobian.T).double())
    smallest, largest = values[0].item(), values[-1].item()
    share = torch.finfo(torch.float32).eps  # of the largest value; smaller ones are rounding, on either side of 0
    return -(largest / smallest if smallest > share * largest else 1 / share)


@register_proxy("RN")
@keeps_weights
def linear_regions(net: QNetwork, batch: int, generator: torch.Generator) -> float:
    """Lower bound of the number of linear regions on the segment between two images: one, plus one for every activation
    whose input changes its sign between neighbours among `batch` points on the segment.

    The published score counts sign patterns in a batch of independent images. That is the batch size for every network
    with more than a few channels.
    """
    prepare(net)
    ends = noise(net, 2, generator)
    places = torch.linspace(0, 1, batch, device=ends.device).view(-1, 1, 1, 1)
    signs = torch.cat(activation_signs(net, torch.lerp(*ends[:, None], places)), 1)
    return 1.0 + (signs[1:] != signs[:-1]).sum().item()


@register_proxy("TE-NAS")
@keeps_weights
def te_nas(net: QNetwork, batch: int, generator: torch.Generator) -> float:
    """ln of the linear regions minus ln of the condition number of the neural tangent kernel (after Chen et al., ICLR
    2021); with ln neither hides the other."""
    condition = -ntk(net, batch, generator)
    return math.log(linear_regions(net, batch, generator)) - math.log(max(condition, 1.0))
