"""Teachers for tests: norms as training leaves them, and images."""
import torch
from torch import nn

from modules.utils.torchvision_compat import import_torchvision

TINY, B5, REGNET = "efficientnet-tiny", "efficientnet-b5", "regnet-y-1.6gf"
models = import_torchvision().models


def lively(net: nn.Module, seed: int = 0) -> nn.Module:
    """`net` in eval mode with random batch-norm statistics and factors, so that every tensor matters."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in ((module.running_mean, -0.2, 0.2), (module.running_var, 0.5, 2),
                                      (module.weight.data, 0.5, 1.5), (module.bias.data, -0.2, 0.2)):
                tensor.uniform_(low, high, generator=generator)
    return net.eval()


def images(size: int, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))
