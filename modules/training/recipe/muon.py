"""Muon: a step turns each dense kernel in all of its directions alike, not most where the gradient is largest."""
from __future__ import annotations

import torch
from torch import nn

# Keller Jordan and others, "Muon: An optimizer for hidden layers in neural networks" (2024): a x + b x^3 + c x^5, which
# takes singular values in (0, 1] to about 0.7 to 1.2 in five rounds.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
TINY = 1e-20  # a norm below it is that of zeros


def orthogonal(direction: torch.Tensor) -> torch.Tensor:
    """`direction`, such as (128, 80, 3, 3), with the singular values of its matrix (128, 720) made nearly equal.

    A round of the Newton-Schulz iteration multiplies the matrix X by a I + b G + c G^2, where G = X X^T. All these
    factors are polynomials of the first G, so that the rounds need its side alone, here 128: their product is kept, and
    multiplied by the matrix once. Zeros stay zeros.
    """
    a, b, c = COEFFICIENTS
    matrix = direction.float().flatten(1)
    tall = matrix.shape[0] > matrix.shape[1]
    matrix = matrix.T if tall else matrix
    matrix = matrix / matrix.norm().clamp(min=TINY)
    gram, product = matrix @ matrix.T, torch.eye(len(matrix), device=matrix.device)
    for _ in range(ROUNDS):
        factor = c * (gram @ gram) + b * gram
        factor.diagonal().add_(a)
        product, gram = factor @ product, factor @ gram @ factor
    matrix = product @ matrix
    return (matrix.T if tall else matrix).reshape(direction.shape).to(direction.dtype)


def dense_kernels(model: nn.Module) -> list[nn.Parameter]:
    """Weights of the convolutions of `model` that are not depthwise or in groups."""
    return [module.weight for module in model.modules() if isinstance(module, nn.Conv2d) and module.groups == 1]


class Muon(torch.optim.SGD):
    """SGD with Nesterov's momentum, but for parameter groups with a true value `turned`, which hold dense kernels.

    Such a kernel goes along `orthogonal` of SGD's direction, by the share lr of its own norm, and is brought back to
    that norm. So it has no weight decay: batch norm follows it, and its norm changes nothing but the size of a step.
    (None follows the two kernels of squeeze-and-excitation: these keep their size.) A kernel of zeros stays one.
    """

    def __init__(self, groups: list[dict], lr: float, momentum: float):
        super().__init__(groups, lr=lr, momentum=momentum, nesterov=True)

    @torch.no_grad()
    def step(self, closure=None):
        """One step, of SGD for the groups that are not `turned`; returns the value of `closure`."""
        loss = None
        if closure is not None:  # here, for SGD would call it while the kernels are zeros
            with torch.enable_grad():
                loss = closure()
        turned = [(group["lr"], kernel) for group in self.param_groups if group.get("turned")
                  for kernel in group["params"] if kernel.grad is not None]
        before = [kernel.clone() for _, kernel in turned]
        for _, kernel in turned:
            kernel.zero_()  # SGD then leaves its step there, to the last bit
        super().step()
        for (share, kernel), old in zip(turned, before, strict=True):
            step, norm = orthogonal(kernel), old.norm()
            new = old + step * (share * norm / step.norm().clamp(min=TINY))
            kernel.copy_(new * (norm / new.norm().clamp(min=TINY)))
        return loss
