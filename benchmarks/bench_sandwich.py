"""Time of one sandwich step, ours against a plain formulation, fp32 and LSQ+, in turns in one run.

    OMP_NUM_THREADS=1 python benchmarks/bench_sandwich.py
    OMP_NUM_THREADS=1 torchrun --nproc_per_node 2 benchmarks/bench_sandwich.py

Plain: the quantisers composed of elementary operations with autograd, NCHW layout, and under torchrun one gradient
reduction after each of the four backward passes. Ours: one autograd function per quantiser, channels last, one
reduction, and the convolutions of small maps as of `small_maps`. Each round all forms run the same step; ratios are
medians over rounds. Rounds repeat the same few steps, so that all forms find their kernels compiled.
"""
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench_lsq import composed

from modules.utils.cli import make_parser, run
from modules.utils.settings import BATCH, PIXELS, option


def composed_activation(activation, scale, num_bits, beta, is_training, zero_point="integer"):
    """`quantize_activation` in training, from elementary operations; float offset."""
    levels = 2**num_bits - 1
    return composed(activation, scale, beta, 0, levels, (activation[0].numel() * levels) ** -0.5)


def composed_weight(weight, scale, num_bits, is_training, narrow_range=True):
    """`quantize_weight` in training, from elementary operations."""
    top = 2 ** (num_bits - 1) - 1
    return composed(weight, scale, None, -top, top, (weight.numel() * top) ** -0.5)


def plain_convolution(x, weight, bias, stride, groups):
    """The convolution as torch makes it."""
    from torch.nn.functional import conv2d

    return conv2d(x, weight, bias, stride, weight.shape[-1] // 2, 1, groups)


def main(argv=None):
    parser = make_parser(__doc__)
    option(parser, "--supernet", "onnxw_tiny-053412-000000", "supernet")
    option(parser, "--resolution", 48, "image size", **PIXELS)
    option(parser, "--batch_size", 64, "images per step", **BATCH)
    option(parser, "--rounds", 9, "turns, of which the median counts", low=1)
    option(parser, "--steps", 3, "different steps that rounds go through", low=1)
    args = parser.parse_args(argv)

    import torch

    from modules.modeling.ops import dynamic_op, fake_quant
    from modules.modeling.ops.lsq_plus import set_quant_mode
    from modules.modeling.supernet import Supernet
    from modules.training import sandwich
    from modules.training.config import TrainConfig
    from modules.utils import dist

    torch.set_num_threads(1)
    dist.init_distributed()
    torch.manual_seed(dist.rank())
    images = torch.randn(args.batch_size, 3, args.resolution, args.resolution)
    labels = torch.randint(10, (args.batch_size,))
    fused = fake_quant.quantize_activation, fake_quant.quantize_weight
    small_map_convolution = dynamic_op.convolve
    reduce = dist.average_gradients

    def make(int8, channels_last):
        torch.manual_seed(0)
        model = Supernet.build_from_str(args.supernet, 10, (args.resolution,)).train()
        if channels_last:
            model.to(memory_format=torch.channels_last)
        return set_quant_mode(model) if int8 else model

    def step(model, ours, index):
        fake_quant.quantize_activation, fake_quant.quantize_weight = (
            fused if ours else (composed_activation, composed_weight))
        dynamic_op.convolve = small_map_convolution if ours else plain_convolution
        x = images.contiguous(memory_format=torch.channels_last) if ours else images
        model.zero_grad(set_to_none=True)
        start = time.perf_counter()
        sandwich.sandwich_step(model, x, labels, TrainConfig(), sandwich.step_generator(0, 0, index))
        if not ours:  # the step made one reduction; the plain form makes three more
            for _ in range(TrainConfig().num_arch_training - 1):
                reduce(model.parameters())
        return time.perf_counter() - start

    forms = {("LSQ+" if int8 else "fp32", name): (make(int8, ours), ours)
             for int8 in (False, True) for name, ours in (("plain", False), ("ours", True))}
    times = {key: [] for key in forms}
    for turn in range(-args.steps, args.rounds):
        for key, (model, ours) in forms.items():
            seconds = step(model, ours, turn % args.steps)
            if turn >= 0:
                times[key].append(seconds)

    def ratio(a, b):
        return statistics.median(x / y for x, y in zip(times[a], times[b], strict=True))

    if dist.rank() == 0:
        for mode in ("fp32", "LSQ+"):
            plain, ours = (statistics.median(times[mode, name]) for name in ("plain", "ours"))
            print(f"{mode}, {args.resolution} px, {dist.world_size()} process(es): plain {plain:.3f} s, "
                  f"ours {ours:.3f} s, ratio {ratio((mode, 'plain'), (mode, 'ours')):.2f}")
        print(f"LSQ+ takes {ratio(('LSQ+', 'ours'), ('fp32', 'ours')):.2f} times as long as fp32", flush=True)
    dist.close()


if __name__ == "__main__":
    run(main)
