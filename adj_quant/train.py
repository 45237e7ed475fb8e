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
from dataclasses import asdict, fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.adjustable.arguments import add_source_arguments, make_source
from modules.adjustable.config import AdjustConfig
from modules.utils.cli import add_local_rank, make_parser, run


def main():
    parser = make_parser(__doc__)
    add_source_arguments(parser)
    parser.add_argument("--subnet_choice", required=True)
    parser.add_argument("--ckpt_path", default="", help="adj.pth or adj_swa.pth of another run, to start from")
    parser.add_argument("--num_calib_batches", type=int, default=20,
                        help="training batches that calibrate batch norm and the ranges")
    parser.add_argument("--output_dir", default="checkpoints/adj_quant")
    parser.add_argument("--resume", action="store_true", help="continue the run in --output_dir")
    parser.add_argument("--overwrite", action="store_true", help="start afresh where there is a run already")
    group = parser.add_argument_group("loss")
    group.add_argument("-a", "--alpha", type=float, help="weight of the cross-entropy")
    group.add_argument("-b", "--beta", type=float, help="weight of the score")
    group.add_argument("-g", "--gamma", type=float,
                       help="share of the operations' gradient that goes to the bits of activations")
    group.add_argument("--metric", type=float, help="the score to reach")
    group.add_argument("--norms", help="micronet or own")
    group = parser.add_argument_group("quantisers")
    group.add_argument("-r", "--range", help="how far ranges may be adjusted: 1 to 6")
    group.add_argument("--bits_trainable", action="store_true", help="else 8 bits everywhere")
    group.add_argument("--finetune", action="store_true", help="the bits stay as they are")
    group.add_argument("--iter_train", action="store_true", help="the bits move in some mini-epochs only")
    group.add_argument("--iter_train_freq", type=int)
    group.add_argument("--warm_up_epoch", type=float, help="epochs before the bits move")
    group = parser.add_argument_group("training")
    group.add_argument("--max_epoch", type=int)
    group.add_argument("--batch_size", type=int, help="per process")
    group.add_argument("--lr", type=float)
    group.add_argument("--lr_fixed", action="store_true")
    group.add_argument("--lr_decay", type=float)
    group.add_argument("--reinit", type=int, metavar="STEPS", help="after which Adam starts afresh")
    group.add_argument("--lr_bits", type=float)
    group.add_argument("--swa_delay", type=float, metavar="EPOCHS", help="before weights are averaged")
    group.add_argument("--swa_freq", type=float, metavar="EPOCHS")
    group.add_argument("--seed", type=int)
    group.add_argument("--aug", action="store_true", help="train on crops and mirrored images")
    parser.set_defaults(**asdict(AdjustConfig()))
    add_local_rank(parser)
    args = parser.parse_args()

    from modules.adjustable.training import AdjustTrainer
    from modules.search_space.config import SubnetChoiceConfig
    from modules.utils.dist import close, init_distributed, rank

    evaluator = make_source(args, init_distributed(args.local_rank), calibration_batches=args.num_calib_batches,
                            seed=args.seed)
    choice = SubnetChoiceConfig.from_str(args.subnet_choice)
    evaluator.model.subnets.check(choice)
    config = AdjustConfig(**{field.name: getattr(args, field.name) for field in fields(AdjustConfig)})
    trainer = AdjustTrainer(evaluator, choice, config, args.output_dir, start=args.ckpt_path or None,
                            resume=args.resume, overwrite=args.overwrite)
    last = trainer.run()
    if rank() == 0:
        print(f"{args.output_dir}: acc1={last['top1']:.2f}, score={last['score']:.4f}")
    close()


if __name__ == "__main__":
    run(main)
