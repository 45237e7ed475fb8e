"""Fine-tune a trained subnet on another image classification task, in int8 like the supernet it comes from.

A published subnet on CIFAR-10, its supernet's lsq.pth in checkpoints/supernet_training/spaceevo@vnni/:

    python downstream_cls.py --subnet_name SEQnet@vnni-A0 --dataset CIFAR10

A subnet of your own, on your own images (a folder with train/ and val/), with two processes:

    torchrun --nproc_per_node 2 downstream_cls.py --superspace onnxw_tiny --supernet_choice 512202-012000 \\
        --subnet_name "d1#1#1#1#1#1#1#1_k3#3#3#3#3#3#3#3_w8#8#16#32#56#56#96#128_e0#0.5#1.0#4.0#4.0#4.0#0#4.0_r32" \\
        --dataset folder --dataset_path /path/to/images --epochs 20

The data set is downloaded if it is not there; --imagenet_path FOLDER calibrates batch norm on the images there before
the first step, as published. Writes <output_dir>/<subnet>_<dataset>.pth, and next to it a folder with the log, curves
and the state from which --resume continues. onnx_tools/export_onnx.py and the other tools take the file (--resume
FILE).
"""
from modules.utils.cli import add_local_rank, make_parser, run


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--subnet_name", default="SEQnet@vnni-A0",
                        help="a published name, or the encoding of a subnet of --superspace and --supernet_choice")
    parser.add_argument("--superspace", default="", help="of an encoding, such as onnxw_tiny")
    parser.add_argument("--supernet_choice", default="", help="of an encoding: block digits, then - and window digits")
    parser.add_argument("--checkpoint_path", default="checkpoints/supernet_training",
                        help="the supernet's checkpoint, or the folder that holds <supernet>/lsq.pth")
    parser.add_argument("--fp32", action="store_true", help="start from checkpoint.pth and stay in fp32")
    parser.add_argument("--only_train_head", action="store_true", help="the classifier alone learns")
    parser.add_argument("--dataset", default="CIFAR10", help="CIFAR10, CIFAR100, Flowers102, OxfordIIITPet, Food101, "
                                                             "StanfordCars, FGVCAircraft, digits or folder")
    parser.add_argument("--dataset_path", default="", help="where the data set is or is downloaded to")
    parser.add_argument("--imagenet_path", default="",
                        help="folder with train/ and val/ of the images that the supernet was trained on: calibrates "
                             "batch norm on 2,048 of them at the start; default: the checkpoint's statistics")
    parser.add_argument("--augment", default="auto_augment_tf", help="or default")
    parser.add_argument("--num_workers", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--batch_size", type=int, default=128, help="per process")
    parser.add_argument("--learning_rate", type=float, default=0.0,
                        help="for 128 images per step, in proportion for others; default: the data set's")
    parser.add_argument("--lr_warmup", type=float, default=2, metavar="EPOCHS")
    parser.add_argument("--weight_decay", type=float, default=1e-5)
    parser.add_argument("--max_grad_norm", type=float, default=1.0)
    parser.add_argument("--label_smoothing", type=float, default=0.1)
    parser.add_argument("--valid_freq", type=int, default=1, metavar="EPOCHS", help="between tests")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--device", default="", help="cpu or cuda; default: cuda if there is one")
    parser.add_argument("--output_dir", default="checkpoints/downstream_cls")
    parser.add_argument("--resume", action="store_true", help="continue where this run was stopped")
    parser.add_argument("--overwrite", action="store_true", help="start afresh where this run has begun already")
    add_local_rank(parser)
    args = parser.parse_args()

    from modules.search_space.published import find_subnet
    from modules.training.downstream import fine_tune
    from modules.utils.dist import close, init_distributed, rank

    name, supernet, space, choice = find_subnet(args.subnet_name, args.superspace, args.supernet_choice)
    path, accuracy = fine_tune(
        name, supernet, space, choice, checkpoint=args.checkpoint_path, output=args.output_dir, int8=not args.fp32,
        resume=args.resume, overwrite=args.overwrite, device=init_distributed(args.local_rank, args.device),
        dataset=args.dataset, dataset_path=args.dataset_path, augment=args.augment,
        calibration_path=args.imagenet_path,
        data_loader_workers_per_gpu=args.num_workers, epochs=args.epochs, batch_size_per_gpu=args.batch_size,
        learning_rate=args.learning_rate, warmup_epochs=args.lr_warmup, weight_decay_weight=args.weight_decay,
        grad_clip_norm=args.max_grad_norm, label_smoothing=args.label_smoothing, valid_freq=args.valid_freq,
        seed=args.seed, only_train_head=args.only_train_head)
    if rank() == 0:
        print(f"{name} on {args.dataset}: acc1={accuracy:.2f}, {path}")
    close()


if __name__ == "__main__":
    run(main)
