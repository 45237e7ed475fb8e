"""Train the supernet of a search space: fp32 first, then int8 (LSQ+) with --quant_mode.

On the embedded digits, one CPU, a few minutes:

    python train_supernet.py --superspace onnxw_tiny --supernet_choice 151122-010101 \\
        --config-file supernet_training_configs/digits.yaml
    python train_supernet.py --superspace onnxw_tiny --supernet_choice 151122-010101 \\
        --config-file supernet_training_configs/digits.yaml --quant_mode

One network by any name that --network takes, here with a width (--quant_mode follows as above):

    python train_supernet.py --network resnet20:0.5 --config-file supernet_training_configs/cifar10_net.yaml \\
        --dataset_path /path/to/cifar10

On ImageNet with 8 GPUs:

    torchrun --nproc_per_node 8 train_supernet.py --superspace onnxw --supernet_choice 151122-023231 \\
        --config-file supernet_training_configs/train.yaml --dataset_path /path/to/imagenet

Writes <models_save_dir>/<superspace>-<choice>-align0/checkpoint.pth, or lsq.pth with --quant_mode.
"""
import os
from dataclasses import replace

from modules.search_space.reference import NETWORK
from modules.training.config import TrainConfig, add_config_arguments, load_yaml
from modules.utils.cli import add_local_rank, add_run_arguments, make_parser, run
from modules.utils.settings import from_arguments, given_arguments, idle_settings, option

CHOICE = "322223"  # of blocks, as published


def main(argv=None):
    parser = make_parser(__doc__)
    option(parser, "--superspace", "", "superspace, such as onnxw, mobilew, onnxw_tiny")
    option(parser, "--supernet_choice", "", "block digits, then optionally - and window digits", shown=CHOICE)
    NETWORK.add_to(parser, "--network", meaning=f"{NETWORK.meaning}; instead of a superspace")
    option(parser, "--quant_mode", False, "train int8 from checkpoint.pth, write lsq.pth")
    add_run_arguments(parser, "training of this mode")
    add_config_arguments(parser)
    add_local_rank(parser)
    args = parser.parse_args(argv)

    # oneDNN compiles kernels for the shapes of each random subnet; its default of 1024 forgets most of them.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")

    from modules.search_space.config import SubnetChoiceConfig
    from modules.search_space.superspace import get_superspace
    from modules.training.arguments import given_networks
    from modules.utils.errors import UserError
    from modules.utils.notes import print_once, say

    config = from_arguments(TrainConfig, args, **load_yaml(args.config_file))
    asked = config.resolutions
    if not args.network and args.superspace and get_superspace(args.superspace).searched:
        args.supernet_choice = args.supernet_choice or CHOICE
    ((space, network),) = given_networks(args, max(config.resolutions, default=0))
    if network:
        if config.subnet_choice not in ("", str(network.subnet)):
            raise UserError(f"--subnet_choice {config.subnet_choice} with --network {args.network}; expected one of "
                            "them")
        config = replace(config, subnet_choice=str(network.subnet), resolutions=(network.resolution,))
        for line in idle_settings(config, given_arguments(TrainConfig, args)):
            say(line)
    if config.subnet_choice:
        own = SubnetChoiceConfig.from_str(config.subnet_choice).resolution
        if others := [str(pixels) for pixels in asked if pixels != own]:
            which = f"--network {args.network}" if network else "--subnet_choice"
            say(f"{which} is trained at {own} pixels alone, not at {', '.join(others)}")
    if args.quant_mode:
        config = config.for_quantization()

    from modules.training.trainer import train
    from modules.utils.dist import close, init_distributed

    device = init_distributed(args.local_rank)
    folder = train(config, space, quant_mode=args.quant_mode, resume=args.resume, overwrite=args.overwrite,
                   device=device)
    print_once(f"trained {space}: {folder}")
    close()


if __name__ == "__main__":
    run(main)
