"""Time of one sandwich step, ours against a plain formulation, fp32 and LSQ+, in turns in one run.

    OMP_NUM_THREADS=1 python benchmarks/bench_sandwich.py
    python benchmarks/bench_sandwich.py --device cuda --forms "fp32 plain" fp32 "fp32 bf16" --output steps.json
    OMP_NUM_THREADS=1 torchrun --nproc_per_node 2 benchmarks/bench_sandwich.py

Plain: the quantisers composed of elementary operations with autograd, NCHW layout, and under torchrun one gradient
reduction after each of the four backward passes. Ours: one autograd function per quantiser, channels last, one
reduction, and the convolutions of `ops/convolve.py`. Each round all forms run the same step; ratios are
medians over rounds. Rounds repeat the same few steps: all kernels are compiled by then. The figures of one process on a
CPU are processor time: other programs do not count.
"""
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench_lsq import composed

from modules.utils.cli import make_parser, run
from modules.utils.settings import BATCH, PIXELS, option

APART = "apart"  # the loops of the quantisers, and torch's batch norm and activations: not one pass
# Name: (int8, ours, amp, form of the quantisers' passes).
FORMS = {
    "fp32 plain": (False, False, "none", "operations"), "fp32": (False, True, "none", "loops"),
    "LSQ+ plain": (True, False, "none", "operations"), "LSQ+": (True, True, "none", "loops"),
    "fp32 bf16": (False, True, "bf16", "loops"), "LSQ+ bf16": (True, True, "bf16", "loops"),
    "LSQ+ operations": (True, True, "none", "operations"), "LSQ+ compiled": (True, True, "none", "compiled"),
    "LSQ+ bf16 compiled": (True, True, "bf16", "compiled"),
    "fp32 apart": (False, True, "none", APART), "fp32 bf16 apart": (False, True, "bf16", APART),
    "LSQ+ apart": (True, True, "none", APART), "LSQ+ bf16 apart": (True, True, "bf16", APART),
}


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
    option(parser, "--device", "cpu", "device", choices=("cpu", "cuda"))
    option(parser, "--output", "", "JSON file for the results; empty: none")
    option(parser, "--forms", tuple(FORMS)[:4], "forms that take turns", many="+", choices=tuple(FORMS))
    args = parser.parse_args(argv)

    import torch

    from modules.runtime.torch_timer import conditions
    from modules.utils import dist
    from modules.utils.files import write_json

    if args.device == "cpu":
        torch.set_num_threads(1)
    dist.init_distributed(kind=args.device)
    times = measure(args)
    if dist.rank() == 0:
        seconds = {name: statistics.median(values) for name, values in times.items()}
        for name, value in seconds.items():
            plain = f"{name.split()[0]} plain"
            speed = f", {_ratio(times, plain, name):.2f} times as fast as {plain}" if plain in times else ""
            print(f"{name}, {args.resolution} px, {dist.world_size()} process(es): {value:.3f} s a step, "
                  f"{args.batch_size / value:.0f} images/s{speed}", flush=True)
        for name in ("LSQ+", "LSQ+ operations", "LSQ+ compiled"):
            if {"fp32", name} <= times.keys():
                print(f"{name} takes {_ratio(times, name, 'fp32'):.2f} times as long as fp32")
        if args.output:
            write_json(args.output, {"machine": conditions(), "arguments": vars(args), "seconds": seconds})
    dist.close()


def _ratio(times, a, b):
    return statistics.median(x / y for x, y in zip(times[a], times[b], strict=True))


def measure(args):
    """Seconds of each step over the rounds, by form; the forms take turns."""
    import torch

    from modules.modeling.ops import batch_norm, dynamic_op, fake_quant
    from modules.training import sandwich
    from modules.training.config import TrainConfig
    from modules.utils import dist

    torch.manual_seed(dist.rank())
    images = torch.randn(args.batch_size, 3, args.resolution, args.resolution).to(args.device)
    labels = torch.randint(10, (args.batch_size,)).to(args.device)
    models = {name: make_model(args, *FORMS[name][:2]) for name in args.forms}
    times = {name: [] for name in args.forms}
    ours_of = fake_quant.quantize_activation, fake_quant.quantize_weight, dynamic_op.convolve
    looped = batch_norm.looped

    def step(name, index):
        _, ours, amp, form = FORMS[name]
        fake_quant.quantize_activation, fake_quant.quantize_weight, dynamic_op.convolve = (
            ours_of if ours else (composed_activation, composed_weight, plain_convolution))
        fake_quant.use_form("loops" if form == APART else form)
        batch_norm.looped = (lambda x: False) if form == APART else looped
        x = images.contiguous(memory_format=torch.channels_last) if ours else images
        models[name].zero_grad(set_to_none=True)
        start = now(args.device)
        sandwich.sandwich_step(models[name], x, labels, TrainConfig(amp=amp), sandwich.step_generator(0, 0, index))
        if not ours:  # the step made one reduction; the plain form makes three more
            for _ in range(TrainConfig().num_arch_training - 1):
                dist.average_gradients(models[name].parameters())
        return now(args.device) - start

    for turn in range(-args.steps, args.rounds):
        for name in args.forms:
            seconds = step(name, turn % args.steps)
            if turn >= 0:
                times[name].append(seconds)
    return times


def make_model(args, int8, channels_last):
    """The supernet in training, on the device."""
    import torch

    from modules.modeling.ops.lsq_plus import set_quant_mode
    from modules.modeling.supernet import Supernet

    torch.manual_seed(0)
    model = Supernet.build_from_str(args.supernet, 10, (args.resolution,)).train().to(args.device)
    if channels_last:
        model.to(memory_format=torch.channels_last)
    return set_quant_mode(model) if int8 else model


def now(device):
    """The time in seconds, after `device` has finished its work."""
    import torch

    from modules.utils import dist

    if device == "cpu" and dist.world_size() == 1:
        return time.process_time()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    run(main)
