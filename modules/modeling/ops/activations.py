"""The activations of blocks as functions of torch."""
import torch
import torch.nn.functional as F

ACTIVATIONS = {
    "relu": torch.relu_,
    "relu6": F.relu6,
    "hswish": F.hardswish,
    "swish": F.silu,
    "hard_sigmoid": F.hardsigmoid,
    "sigmoid": torch.sigmoid,
}
