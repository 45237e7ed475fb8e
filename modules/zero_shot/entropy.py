"""QE-Score: the entropy of the features of a quantised network, in closed form (Sun et al., NeurIPS 2022)."""
from __future__ import annotations

import math

from modules.modeling.net_spec import NetSpec
from modules.modeling.spec import ConvSpec
from modules.zero_shot.plain_view import body_length
from modules.zero_shot.proxies import register_spec_score

WEIGHT_STEPS, ACTIVATION_STEPS = 4.0, 5.0  # standard deviations before quantisation, in steps
STAGE_WEIGHTS = (0.0, 0.0, 1.0, 1.0, 6.0)  # of the feature sizes from the second largest on


def quantized_deviation(sigma: float, bits: int) -> float:
    """Standard deviation, in steps, of a variable from N(0, sigma^2) after rounding and clipping to +-2^(bits - 1).

    E[X^2] = sum over k of (2 k - 1) P(|X| >= k), such as 1 step at 1 bit and a large sigma.
    """
    return math.sqrt(sum((2 * k - 1) * math.erfc((k - 0.5) / (sigma * math.sqrt(2)))
                         for k in range(1, 2 ** (bits - 1) + 1)))


def qe_score(spec: NetSpec, weight_bits: int = 8, activation_bits: int = 8) -> float:
    """Sum over the stages of weight times entropy at the end of the stage; each feature size is a stage.

    A convolution adds ln(S_w S_a / s_a) + 1/2 ln(fan-in); s is the deviation before quantisation and S that after it.
    The entropy at the end of a stage is the sum over all convolutions up to there, plus ln of its channels. From 6 bits
    on S is that of float: at 8 bits the score is the float network's entropy. Shortcuts and squeeze-and-excitation do
    not count. A network with fewer than five sizes takes the last weights.
    """
    gain = math.log(quantized_deviation(ACTIVATION_STEPS, activation_bits)
                    * quantized_deviation(WEIGHT_STEPS, weight_bits)) - math.log(ACTIVATION_STEPS)
    ends: list[float] = []
    entropy = 0.0
    for layer, stride in _convolutions(spec):
        if stride > 1 or not ends:
            ends.append(0.0)
        entropy += gain + 0.5 * math.log(layer.weight_size / layer.cout)
        ends[-1] = entropy + math.log(layer.cout)
    ends = ends[-len(STAGE_WEIGHTS):]
    return sum(weight * end for weight, end in zip(STAGE_WEIGHTS[-len(ends):], ends, strict=True)) if ends else 0.0


def _convolutions(spec: NetSpec):
    """Pairs (convolution, stride) of the body in order; a stack is one for each of its members."""
    for _, block in spec.blocks[: body_length(spec)]:
        for layer in block.main:
            if isinstance(layer, ConvSpec) and layer.used:
                yield from ((layer, stride) for stride in layer.strides)


@register_spec_score("QE")
def qe(spec: NetSpec) -> float:
    """QE-Score at 8 bits."""
    return qe_score(spec)
