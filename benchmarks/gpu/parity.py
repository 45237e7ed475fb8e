"""Logits and gradients of supernets on another device against those on the CPU, for every block type.

    python benchmarks/gpu/parity.py --device cuda --output parity.json

A line is one quantised layer, or one superspace and block type in fp32 and LSQ+ (the largest subnet): the difference as
a share of the CPU's norm. Exit status 1 if a difference of a layer or of an fp32 network is above --limit, or if any
number is not finite. Whole LSQ+ networks have no limit: a code that rounds the other way moves them more than the order
of sums does. Parameters, images and quantisers start alike; TF32 is off.
"""
from __future__ import annotations

import math
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from modules.utils.cli import make_parser, run
from modules.utils.settings import BATCH, option


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    option(parser, "--device", "cuda", "device to compare with the CPU", choices=("cpu", "cuda"))
    option(parser, "--batch_size", 16, "images", **BATCH)
    option(parser, "--limit", 0.02, "largest difference of layers and fp32 networks, as a share", above=0)
    option(parser, "--output", "", "JSON file for the results; empty: none")
    option(parser, "--superspaces", ("cifarw", "onnxw_tiny"), "superspaces whose block types to compare", many="+")
    args = parser.parse_args(argv)

    from modules.runtime.torch_timer import conditions
    from modules.search_space.superspace import get_superspace
    from modules.utils.dist import compute_in_full_fp32
    from modules.utils.files import write_json

    compute_in_full_fp32()
    rows = [{"space": f"{name}-{str(i) * len(space.searched)}", "int8": int8}
            for name in args.superspaces for space in (get_superspace(name),)
            for i in range(len(space.candidates)) for int8 in (False, True)]
    layers = [{"layer": name} for name in LAYERS]
    for row in layers:
        row |= compare_layer(row["layer"], args.device, args.batch_size)
        print("{layer}: outputs differ by {outputs:.2e}, gradients by {gradients:.2e}".format(**row), flush=True)
    for row in rows:
        row |= compare(row["space"], row["int8"], args.device, args.batch_size)
        print("{space} {mode}: logits differ by {logits:.2e}, gradients by {gradients:.2e}".format(
            mode="LSQ+" if row["int8"] else "fp32", **row), flush=True)
    if args.output:
        write_json(args.output, {"machine": conditions(), "arguments": vars(args), "layers": layers,
                                 "rows": rows})
    sys.exit(judge(layers, rows, args.limit))


def judge(layers: list[dict], rows: list[dict], limit: float) -> int:
    """The exit status, 0 or 1, from the differences of layers and networks; prints the reason."""
    limited = [row[name] for row in layers for name in ("outputs", "gradients")]
    limited += [row[name] for row in rows if not row["int8"] for name in ("logits", "gradients")]
    free = [row[name] for row in rows if row["int8"] for name in ("logits", "gradients")]
    broken = sum(not math.isfinite(value) for value in limited + free)
    worst = max((value for value in limited if math.isfinite(value)), default=0.0)
    print(f"largest difference of layers and fp32 networks: {worst:.2e}; allowed: {limit:g}"
          + f"; {broken} differences are not finite" * bool(broken))
    return int(worst > limit or broken > 0)


def compare_layer(name: str, device: str, batch_size: int) -> dict[str, float]:
    """Differences of the outputs of one of `LAYERS` and of all its gradients together."""
    import torch

    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch_size, 24, 14, 14, generator=generator)
    upstream = torch.randn(batch_size, 24, 14, 14, generator=generator)
    results = []
    for where in ("cpu", device):
        torch.manual_seed(0)
        given = x.to(where).contiguous(memory_format=torch.channels_last).requires_grad_()
        output, parameters = LAYERS[name](given)
        output.backward(upstream.to(where))
        gradients = [tensor.grad.flatten() for tensor in (given, *parameters) if tensor.grad is not None]
        results.append((output.detach().cpu(), torch.cat(gradients).cpu()))
    return _differences(("outputs", "gradients"), *results)


def _convolution(x, **options):
    from modules.modeling.ops.lsq_plus import set_quant_mode
    from modules.modeling.ops.op import QConv

    layer = QConv(24, 24, 3, padding=1, **options)
    set_quant_mode(layer)
    layer = layer.to(x.device).train()
    return layer(x), list(layer.parameters())


def _tensor(x):
    from modules.modeling.ops.lsq_plus import set_quant_mode
    from modules.modeling.tensors import TensorQuant

    layer = TensorQuant("x", "hswish")
    set_quant_mode(layer)
    layer = layer.to(x.device).train()
    return layer(x), list(layer.parameters())


def _adjustable(x):
    import torch

    from modules.adjustable.fake_quant import fake_quantize

    # Ranges that cut a part of the values off at both ends, and other numbers of steps for each channel.
    low = torch.linspace(-2.0, -0.5, 24, device=x.device).requires_grad_()
    top = torch.linspace(7.0, 255.0, 24, device=x.device).requires_grad_()
    scale = (top.detach() / 2.5).requires_grad_()
    return fake_quantize(x, low, scale, top, 1), [low, scale, top]


def _norm(x):
    from modules.modeling.ops.batch_norm import DynamicBatchNorm2d

    norm = DynamicBatchNorm2d(24).to(x.device).train()
    return norm(x), list(norm.parameters())


LAYERS = {
    "LSQ+ convolution": _convolution,
    "LSQ+ depthwise convolution": partial(_convolution, groups=24),
    "LSQ+ tensor before h-swish": _tensor,
    "adjustable quantiser": _adjustable,
    "elastic batch norm": _norm,
}


def compare(space: str, int8: bool, device: str, batch_size: int) -> dict[str, float]:
    """Differences of logits and of all gradients together."""
    import torch
    import torch.nn.functional as F

    from modules.modeling.ops.lsq_plus import set_quant_mode
    from modules.modeling.supernet import Supernet

    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch_size, 3, 32, 32, generator=generator)
    labels = torch.randint(10, (batch_size,), generator=generator)
    results = []
    for where in ("cpu", device):
        torch.manual_seed(0)
        model = Supernet.build_from_str(space, 10, (32,)).train()
        if int8:
            set_quant_mode(model)
        model.to(where).to(memory_format=torch.channels_last)
        logits = model(images.to(where).contiguous(memory_format=torch.channels_last))
        F.cross_entropy(logits, labels.to(where)).backward()
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        results.append((logits.detach().cpu(), torch.cat(gradients).cpu()))
    return _differences(("logits", "gradients"), *results)


def _differences(names, ours, theirs) -> dict[str, float]:
    return {name: float((b - a).norm() / a.norm()) for name, a, b in zip(names, ours, theirs, strict=True)}


if __name__ == "__main__":
    run(main)
