"""ZiCo: the inverse coefficient of variation of gradients (Li et al., ICLR 2023)."""
from __future__ import annotations

import torch
import torch.nn.functional as F

from modules.modeling.network import QNetwork
from modules.zero_shot.proxies import LAYERS, keeps_weights, noise, prepare, random_labels, register_proxy

_BATCHES = 2


@register_proxy("ZiCo")
@keeps_weights
def zico(net: QNetwork, batch: int, generator: torch.Generator) -> float:
    """Sum over layers of ln of the sum over weights of E|g| / std(g), over the gradients g of the cross-entropy on two
    batches, with the network's own initialisation.

    The deviation is that of the gradients, as in the published code; the paper takes that of their sizes. Images and
    labels are random here; the paper takes those of the data set.
    """
    prepare(net)
    weights = [module.weight for module in net.modules() if isinstance(module, LAYERS)]
    gradients = []
    for _ in range(_BATCHES):
        logits = net(noise(net, batch, generator))
        gradients.append(torch.autograd.grad(F.cross_entropy(logits, random_labels(net, batch, generator)), weights))
    score = 0.0
    for of_layer in zip(*gradients, strict=True):
        values = torch.stack(of_layer).double()
        mean, deviation = values.abs().mean(0), values.std(0, correction=0)
        ratio = torch.where(deviation > 0, mean / deviation, 0).sum()
        score += ratio.log().item() if ratio > 0 else 0.0
    return score
