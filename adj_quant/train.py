"""Train a network with adjustable quantisation: every channel learns its range and its bits (2 to 8).

From the fp32 checkpoint of a supernet, or of one network, on the embedded digits; a few minutes on one core:

    python adj_quant/train.py --superspace onnxw_tiny --supernet_choice 512202-012000 --norms own --metric 0.3 \\
        --subnet_choice "d1#1#1#1#1#1#1#1_k3#3#3#3#3#3#3#3_w8#8#16#32#56#56#96#128_e0#0.5#1.0#4.0#4.0#4.0#0#4.0_r32" \\
        --bits_trainable --max_epoch 3 --lr 3e-4 --lr_bits 0.01

Then with the bits as they are, from the best point of that run whose score is at most 0.3:

    python adj_quant/train.py --superspace onnxw_tiny --supernet_choice 512202-012000 --norms own --metric 0.3 \\
        --subnet_choice "d1#1#1#1#1#1#1#1_k3#3#3#3#3#3#3#3_w8#8#16#32#56#56#96#128_e0#0.5#1.0#4.0#4.0#4.0#0#4.0_r32" \\
        --bits_trainable --finetune --alpha 25 --beta 0 --lr 1e-4 --max_epoch 1 --swa_delay 0.2 --swa_freq 0.1 \\
        --ckpt_path checkpoints/adj_quant --pick "score<=0.3" --output_dir checkpoints/adj_quant_tuned

EfficientNet-B0 on ImageNet from torchvision's weights, as published:

    python adj_quant/train.py --network efficientnet_b0 --weight_path efficientnet_b0.pth --bits_trainable \\
        --dataset_path /path/to/imagenet --iter_train --lr_fixed --max_epoch 3 --metric 0.18

The bits are driven to a MicroNet score (--metric): storage and operations, each relative to a norm. With --norms
micronet these are MobileNetV2-1.4's, as in the challenge; with --norms own they are the network's own in 32 bits, so
that 8 bits everywhere score 0.5 and 4 bits 0.25. A run that has been at the target ends on its right side, at the score
or below. Writes adj.pth and adj_swa.pth (the average) into --output_dir, weights/ckpt_metric_<score>.pth for each point
on the front of accuracy and score (points.csv lists them), quant_info.json, initial_thresholds.json, model_info.json,
history.csv and three figures; --resume continues. docs/adjustable.md tells of all of them.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.adjustable.arguments import Source, add_source_arguments, make_source
from modules.adjustable.config import AdjustConfig
from modules.training.arguments import given_networks
from modules.utils.cli import add_local_rank, add_run_arguments, make_parser, run
from modules.utils.errors import UserError
from modules.utils.settings import add_arguments, from_arguments, option

PICK = ("which point of the run in the folder --ckpt_path: accuracy>=75 takes that of the lowest score, score<=0.3 "
        "the most accurate one")


def parse_args(argv):
    parser = make_parser(__doc__)
    add_source_arguments(parser)
    option(parser, "--subnet_choice", "", "subnet of the superspace, d..._k..._w..._e..._r...")
    option(parser, "--ckpt_path", "", "network of another run to start from: adj.pth, adj_swa.pth, or the run's folder")
    option(parser, "--pick", "", PICK)
    option(parser, "--teacher_path", "", "fp32 checkpoint of the same network, the teacher",
           shown="the network in float")
    option(parser, "--initial_thresholds", "", "initial_thresholds.json with the ranges to start from",
           shown="calibrated ones")
    option(parser, "--eval_initial_thresholds", False, "calibrate the ranges and write them to --initial_thresholds",
           aliases=("-e",))
    option(parser, "--validation", False, "only tell accuracy and score of the start; nothing is trained, only the "
           "ranges of -e are written")
    option(parser, "--num_calib_batches", 20, "training batches that calibrate batch norm and the ranges", low=1)
    option(parser, "--output_dir", "checkpoints/adj_quant", "folder of all files")
    add_run_arguments(parser, "run")
    add_arguments(parser, AdjustConfig)
    add_local_rank(parser)
    args = parser.parse_args(argv)
    if args.eval_initial_thresholds and not args.initial_thresholds:
        raise UserError("--eval_initial_thresholds without --initial_thresholds; expected the file for the ranges")
    if args.initial_thresholds and args.ckpt_path:
        raise UserError("--initial_thresholds with --ckpt_path; the network of that run has ranges of its own")
    if args.pick and not args.ckpt_path:
        raise UserError(f"--pick {args.pick} without --ckpt_path; expected the folder of a run")
    if args.network and args.subnet_choice:
        raise UserError(f"--subnet_choice {args.subnet_choice} with --network, which names a subnet; allowed with "
                        "--superspace")
    if args.superspace and not args.subnet_choice:
        raise UserError(f"--superspace {args.superspace} without --subnet_choice; expected d..._k..._w..._e..._r...")
    return args


def main(argv=None):
    args = parse_args(argv)

    from modules.adjustable.files import write_thresholds
    from modules.adjustable.points import chosen_file
    from modules.adjustable.training import FILES, NAME, AdjustTrainer
    from modules.search_space.config import SubnetChoiceConfig
    from modules.utils.dist import close, init_distributed, rank
    from modules.utils.runs import Run

    device, config = init_distributed(args.local_rank), from_arguments(AdjustConfig, args)
    (space, network), = given_networks(args)
    choice = None if network else SubnetChoiceConfig.from_str(args.subnet_choice)
    start = chosen_file(args.ckpt_path, args.pick) if args.ckpt_path else None
    overwrite = args.overwrite or (args.validation and not args.resume)  # which replaces nothing
    with Run(Path(args.output_dir) / NAME, files=FILES, resume=args.resume, overwrite=overwrite,
             option="--output_dir") as opened:
        evaluator = make_source(from_arguments(Source, args), space, args.align_sample, network, device=device,
                                batch_size=config.batch_size, calibration_batches=args.num_calib_batches,
                                seed=config.seed)
        choice = evaluator.choice_of(network) if network else evaluator.model.subnets.check(choice)
        trainer = AdjustTrainer(evaluator, choice, config, opened, start=start, teacher=args.teacher_path,
                                thresholds="" if args.eval_initial_thresholds else args.initial_thresholds)
        last = trainer.validate() if args.validation else trainer.run()
    if rank() == 0:
        if args.eval_initial_thresholds:
            write_thresholds(args.initial_thresholds, trainer.network.placement, *trainer.network.ranges())
        where = "start" if args.validation else args.output_dir
        print(f"{where}: acc1={last['top1']:.2f}, score={last['score']:.4f}")
    close()


if __name__ == "__main__":
    run(main)
