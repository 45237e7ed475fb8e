"""Fine-tune a trained subnet on another image classification task, in int8 like its supernet.

A published subnet on CIFAR-10, its supernet's lsq.pth in checkpoints/supernet_training/spaceevo@vnni/:

    python downstream_cls.py --subnet_name SEQnet@vnni-A0 --dataset CIFAR10

A subnet of your own, on your own images (a folder with train/ and val/), with two processes:

    torchrun --nproc_per_node 2 downstream_cls.py --superspace onnxw_tiny --supernet_choice 512202-012000 \\
        --subnet_name "d1#1#1#1#1#1#1#1_k3#3#3#3#3#3#3#3_w8#8#16#32#56#56#96#128_e0#0.5#1.0#4.0#4.0#4.0#0#4.0_r32" \\
        --dataset folder --dataset_path /path/to/images --epochs 20

A missing data set is downloaded. --imagenet_path FOLDER calibrates batch norm on the images there before the first
step, as published. Writes <output_dir>/<subnet>_<dataset>.pth, with --fp32 <subnet>_<dataset>_fp32.pth, and next to it
a folder with the log, curves and the state for --resume. onnx_tools/export_onnx.py and the other tools take the file
(--resume FILE; eval_supernet.py with --quant_mode).
"""
from dataclasses import replace

from modules.datasets.transforms import AUGMENTS
from modules.training.arguments import SUPERNETS
from modules.utils.cli import add_local_rank, add_run_arguments, make_parser, run
from modules.utils.settings import SEED, TRAIN_BATCH, WORKERS, option


def main(argv=None):
    parser = make_parser(__doc__)
    option(parser, "--subnet_name", "SEQnet@vnni-A0", "a network as --network of the other scripts takes it, or an "
           "encoding in --superspace and --supernet_choice", aliases=("--network",))
    option(parser, "--superspace", "", "superspace of an encoding, such as onnxw_tiny")
    option(parser, "--supernet_choice", "", "supernet of an encoding: block digits, then - and window digits")
    option(parser, "--checkpoint_path", SUPERNETS, "the supernet's checkpoint, or the folder that holds "
           "<supernet>/lsq.pth")
    option(parser, "--fp32", False, "start from checkpoint.pth and stay in fp32")
    option(parser, "--only_train_head", False, "the classifier alone learns")
    option(parser, "--dataset", "CIFAR10", "data set: CIFAR10, CIFAR100, Flowers102, OxfordIIITPet, Food101, "
           "StanfordCars, FGVCAircraft, digits or folder")
    option(parser, "--dataset_path", "", "folder of the data set, or for its download", aliases=("--dataset_dir",))
    option(parser, "--imagenet_path", "", "folder with train/ and val/ of the supernet's training images: "
           "calibrates batch norm on 2,048 of them at the start", shown="the checkpoint's statistics")
    option(parser, "--augment", "auto_augment_tf", "augmentation of the training images", choices=AUGMENTS)
    replace(WORKERS, default=4).add_to(parser, "--num_workers")
    option(parser, "--epochs", 200, "epochs", low=1)
    option(parser, "--batch_size", 128, "images per step and process", **TRAIN_BATCH)
    option(parser, "--learning_rate", 0.0, "learning rate for 128 images per step, in proportion for others", low=0,
           shown="the data set's")
    option(parser, "--lr_warmup", 2.0, "epochs in which the learning rate rises from 0", low=0, unit="epochs")
    option(parser, "--weight_decay", 1e-5, "weight decay of convolutions and of the classifier", low=0)
    option(parser, "--max_grad_norm", 1.0, "largest norm of all gradients together; 0: any", low=0)
    option(parser, "--label_smoothing", 0.1, "share of the labels that is spread over all classes", low=0, below=1)
    option(parser, "--valid_freq", 1, "epochs between tests", low=1, unit="epochs")
    SEED.add_to(parser, "--seed", default=42)
    option(parser, "--device", "", "cpu or cuda", shown="cuda if there is one")
    option(parser, "--output_dir", "checkpoints/downstream_cls", "folder of the trained file and of its run")
    add_run_arguments(parser, "fine-tuning")
    add_local_rank(parser)
    args = parser.parse_args(argv)

    from modules.search_space.reference import read_network
    from modules.training.downstream import fine_tune
    from modules.utils.dist import close, init_distributed, rank

    network = read_network(args.subnet_name, args.superspace, args.supernet_choice)
    path, accuracy = fine_tune(
        network.name, network.supernet, network.space, network.subnet,
        checkpoint=args.checkpoint_path, output=args.output_dir, int8=not args.fp32,
        resume=args.resume, overwrite=args.overwrite, device=init_distributed(args.local_rank, args.device),
        dataset=args.dataset, dataset_path=args.dataset_path, augment=args.augment,
        calibration_path=args.imagenet_path,
        data_loader_workers_per_gpu=args.num_workers, epochs=args.epochs, batch_size_per_gpu=args.batch_size,
        learning_rate=args.learning_rate, warmup_epochs=args.lr_warmup, weight_decay_weight=args.weight_decay,
        grad_clip_norm=args.max_grad_norm, label_smoothing=args.label_smoothing, valid_freq=args.valid_freq,
        seed=args.seed, only_train_head=args.only_train_head)
    if rank() == 0:
        print(f"{network.name} on {args.dataset}: acc1={accuracy:.2f}, {path}")
    close()


if __name__ == "__main__":
    run(main)
