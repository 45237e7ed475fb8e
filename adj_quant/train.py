"""Train a subnet with adjustable quantisation: every channel learns its range and its bits (2 to 8).

From the fp32 checkpoint of a supernet, or of one subnet, on the embedded digits; a few minutes on one core:

    python adj_quant/train.py --superspace onnxw_tiny --supernet_choice 512202-012000 --norms own --metric 0.3 \\
        --subnet_choice "d1#1#1#1#1#1#1#1_k3#3#3#3#3#3#3#3_w8#8#16#32#56#56#96#128_e0#0.5#1.0#4.0#4.0#4.0#0#4.0_r32" \\
        --bits_trainable --max_epoch 3 --lr 3e-4 --lr_bits 0.01

Then with the bits as they are, from where that run ended:

    python adj_quant/train.py --superspace onnxw_tiny --supernet_choice 512202-012000 --norms own --metric 0.3 \\
        --subnet_choice "d1#1#1#1#1#1#1#1_k3#3#3#3#3#3#3#3_w8#8#16#32#56#56#96#128_e0#0.5#1.0#4.0#4.0#4.0#0#4.0_r32" \\
        --bits_trainable --finetune --alpha 25 --beta 0 --lr 1e-4 --max_epoch 1 --swa_delay 0.2 --swa_freq 0.1 \\
        --ckpt_path checkpoints/adj_quant/adj.pth --output_dir checkpoints/adj_quant_tuned

The bits are driven to a MicroNet score (--metric): storage and operations, each relative to a norm. With --norms
micronet these are MobileNetV2-1.4's, as in the challenge; with --norms own they are the network's own in 32 bits, so
that 8 bits everywhere score 0.5 and 4 bits 0.25. Such networks are evaluated by simulation: engines have no bits per
channel of a tensor. Writes <output_dir>/adj.pth (adj_swa.pth: the average), quant_info.json (bits of every channel),
history.csv and curves.png; --resume continues.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.adjustable.arguments import Source, add_source_arguments, make_source
from modules.adjustable.config import AdjustConfig
from modules.training.arguments import given_networks
from modules.utils.cli import add_local_rank, add_run_arguments, make_parser, run
from modules.utils.settings import add_arguments, from_arguments, option


def main(argv=None):
    parser = make_parser(__doc__)
    add_source_arguments(parser)
    option(parser, "--subnet_choice", "", "subnet of the superspace, d..._k..._w..._e..._r...")
    option(parser, "--ckpt_path", "", "adj.pth or adj_swa.pth of another run, to start from")
    option(parser, "--num_calib_batches", 20, "training batches that calibrate batch norm and the ranges", low=1)
    option(parser, "--output_dir", "checkpoints/adj_quant", "folder of all files")
    add_run_arguments(parser, "run")
    add_arguments(parser, AdjustConfig)
    add_local_rank(parser)
    args = parser.parse_args(argv)

    from modules.adjustable.training import FILES, NAME, AdjustTrainer
    from modules.search_space.config import SubnetChoiceConfig
    from modules.utils.dist import close, init_distributed, rank
    from modules.utils.runs import Run

    device, config = init_distributed(args.local_rank), from_arguments(AdjustConfig, args)
    (space, network), = given_networks(args)
    choice = network.subnet if network else SubnetChoiceConfig.from_str(args.subnet_choice)
    with Run(Path(args.output_dir) / NAME, files=FILES, resume=args.resume, overwrite=args.overwrite,
             option="--output_dir") as opened:
        evaluator = make_source(from_arguments(Source, args), space, args.align_sample, device=device,
                                batch_size=config.batch_size, calibration_batches=args.num_calib_batches,
                                seed=config.seed)
        evaluator.model.subnets.check(choice)
        last = AdjustTrainer(evaluator, choice, config, opened, start=args.ckpt_path or None).run()
    if rank() == 0:
        print(f"{args.output_dir}: acc1={last['top1']:.2f}, score={last['score']:.4f}")
    close()


if __name__ == "__main__":
    run(main)
