"""Latency of a network: under torch, by the method of Zen-NAS, or of its int8 file on a platform that measures.

    python zen_nas/benchmark_network_latency.py --gpu 0 --fp16 --batch_size 64 --repeat_times 30 \\
        --arch zennet_imagenet1k_latency01ms_res224
    python zen_nas/benchmark_network_latency.py --network resnet20 --num_classes 10 --platform onnxruntime_int8

Weights are random: latency does not depend on them. onnxruntime_int8 measures batch 1 on one thread and keeps the
latency in its cache; a platform of a profile measures with the batch and the threads of the profile.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.utils.cli import make_parser, run
from modules.utils.settings import BATCH, option
from modules.zero_shot.published.flags import add_network_flags


def main(argv=None):
    parser = make_parser(__doc__)
    add_network_flags(parser)
    option(parser, "--batch_size", 1, "images per run", **BATCH)
    option(parser, "--batch_size_list", "", "several batch sizes, joined by commas; instead of --batch_size")
    option(parser, "--repeat_times", 30, "timed runs, of which the median counts", low=1)
    option(parser, "--fp16", False, "float16, on a GPU")
    option(parser, "--platform", "", "measure the int8 file there instead, such as onnxruntime_int8")
    option(parser, "--dist_mode", "", "accepted for old command lines")
    args = parser.parse_args(argv)

    from modules.modeling.net_spec import resolve
    from modules.utils.errors import UserError
    from modules.zero_shot.published.flags import choose_gpu, given_network

    network = given_network(args)
    spec = resolve(network.space, network.subnet, args.num_classes)
    if args.platform:
        if args.fp16 or args.gpu is not None or _batches(args) != [1]:
            raise UserError("--fp16, --gpu or a batch size with --platform, which times int8 in its own way; expected "
                            "one of them")
        from modules.latency import get_platform
        from modules.latency.profile.timer import network_timer

        timer = network_timer(args.platform, get_platform(args.platform), "--platform")
        print(f"{network}: {timer(spec):.4f} ms, int8 on {args.platform}")
        return
    choose_gpu(args)

    import torch

    from modules.modeling.network import QNetwork
    from modules.runtime.torch_timer import seconds_per_image

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if args.fp16 and device.type == "cpu":
        raise UserError("--fp16 without a GPU; allowed: fp32 on the CPU")
    net = QNetwork(spec).eval().to(device)
    for batch in _batches(args):
        seconds = seconds_per_image(net, (batch, 3, spec.resolution, spec.resolution), args.repeat_times, args.fp16)
        print(f"batch {batch}: {seconds:.4g} second(s) per image, or {1 / seconds:.4g} image(s) per second.",
              flush=True)


def _batches(args):
    from modules.utils.errors import UserError

    if not args.batch_size_list:
        return [args.batch_size]
    if not all(part.strip().isdecimal() and int(part) for part in args.batch_size_list.split(",")):
        raise UserError(f"--batch_size_list {args.batch_size_list!r}; expected numbers such as 1,16,64")
    return [int(part) for part in args.batch_size_list.split(",")]


if __name__ == "__main__":
    run(main)
