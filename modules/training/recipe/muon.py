"""Muon: a step turns each dense kernel in all of its directions alike, not most where the gradient is largest."""
from __future__ import annotations

from collections import defaultdict
from itertools import chain

import torch
from torch import nn

# Keller Jordan and others, "Muon: An optimizer for hidden layers in neural networks" (2024): a x + b x^3 + c x^5, which
# takes singular values in (0, 1] to about 0.7 to 1.2 in five rounds.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
TINY = 1e-20  # a norm below it is that of zeros


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """`matrices`, such as (4, 128, 720), each with its singular values made nearly equal, 0.7 to 1.2; of their shape,
    in fp32 (Jordan et al., 2024).

    A round of the Newton-Schulz iteration multiplies the matrix X by a I + b G + c G^2, where G = X X^T. All these
    factors are polynomials of the first G, so that the rounds need its side alone, here 128: their product is kept, and
    multiplied by the matrix once. Zeros stay zeros.
    """
    a, b, c = COEFFICIENTS
    matrices = matrices.float()
    tall = matrices.shape[1] > matrices.shape[2]
    matrices = matrices.mT if tall else matrices
    matrices = matrices / _norms(matrices).clamp(min=TINY)
    gram = matrices @ matrices.mT
    product = torch.eye(gram.shape[-1], device=gram.device).expand_as(gram)
    for _ in range(ROUNDS):
        factor = c * (gram @ gram) + b * gram
        factor.diagonal(dim1=1, dim2=2).add_(a)
        product, gram = factor @ product, factor @ gram @ factor
    matrices = product @ matrices
    return matrices.mT if tall else matrices


def _matrices(kernels: list[torch.Tensor]) -> torch.Tensor:
    """A copy of n kernels of one shape as (n, rows, columns)."""
    return torch.stack([kernel.flatten(1) for kernel in kernels])


def _norms(matrices: torch.Tensor) -> torch.Tensor:
    """The norm of each of (n, rows, columns), as (n, 1, 1)."""
    return torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True)


def dense_kernels(model: nn.Module) -> list[nn.Parameter]:
    """Weights of the convolutions of `model` that are not depthwise or in groups."""
    return [module.weight for module in model.modules() if isinstance(module, nn.Conv2d) and module.groups == 1]


class Muon(torch.optim.SGD):
    """SGD with Nesterov's momentum, but for parameter groups with a true value `turned`, which hold dense kernels.

    Such a kernel goes along `orthogonal` of SGD's direction, by the share lr of its own norm, and is brought back to
    that norm. So it has no weight decay: batch norm follows it, and its norm changes nothing but the size of a step.
    (None follows the two kernels of squeeze-and-excitation: these keep their size.) A kernel of zeros stays one. Of an
    elastic kernel of which one subnet alone is trained, that subnet's slice is the kernel.
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
        alike = defaultdict(list)  # kernels by share and shape as a matrix: a GPU takes such matrices at once
        for group in self.param_groups:
            for kernel in group["params"] if group.get("turned") else ():
                if kernel.grad is not None:
                    alike[group["lr"], len(kernel), kernel[0].numel()].append(kernel)
        before = {key: _matrices(kernels) for key, kernels in alike.items()}
        for kernel in chain.from_iterable(alike.values()):
            kernel.zero_()  # SGD then leaves its step there, to the last bit
        super().step()
        for key, kernels in alike.items():
            old, direction = before[key], _matrices(kernels)
            moved = direction != 0
            runs = moved.any(1, keepdim=True) & moved.any(2, keepdim=True)  # all of it, or the slice of a subnet
            start, step = old * runs, orthogonal(direction).to(old.dtype)
            norm = _norms(start)
            new = start + step * (key[0] * norm / _norms(step).clamp(min=TINY))
            new = torch.where(runs, new * (norm / _norms(new).clamp(min=TINY)), old)
            for kernel, value in zip(kernels, new, strict=True):
                kernel.copy_(value.view_as(kernel))
        return loss
