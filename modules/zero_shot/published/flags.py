"""Command line flags of the published Zen-NAS programs, and their meaning here."""
from __future__ import annotations

import os
from dataclasses import replace

from modules.search_space.networks.structure import SE
from modules.search_space.reference import NETWORK, Network, read_network
from modules.training.config import TrainConfig
from modules.utils.cli import add_local_rank, add_run_arguments, make_parser
from modules.utils.errors import UserError
from modules.utils.notes import say
from modules.utils.settings import BATCH, PIXELS, SEED, TRAIN_BATCH, WORKERS, option

DATASETS = {"imagenet": "folder", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}
MASTERNET = "Masternet"  # beginning of --arch if --plainnet_struct_txt has the network
SMOOTHING, MIXUP, ERASING = 0.1, 0.2, 0.5
LIGHTING = 0.1  # on ImageNet


def add_network_flags(parser) -> None:
    """`--network`, and the published flags for the same."""
    group = parser.add_argument_group("network")
    NETWORK.add_to(group, "--network")
    option(group, "--arch", "", "a ZenNet's name or any network; Masternet.py:MasterNet: that of --plainnet_struct_txt")
    option(group, "--plainnet_struct_txt", "", "file that holds a structure string")
    option(group, "--plainnet_struct", "", "structure string")
    option(group, "--use_se", False, "with squeeze-and-excitation in residual units")
    option(group, "--input_image_size", None, "resolution", kind=int, shown="the network's", **PIXELS)
    option(group, "--num_classes", 1000, "classes; a training has those of its data set", low=2, high=10**6)
    option(group, "--gpu", None, "number of the GPU to use", kind=int, low=0, high=1023, shown="the first, if there is "
           "one")


def _visible(gpu: int) -> str:
    """The GPU with number `gpu` among those that CUDA_VISIBLE_DEVICES leaves to this process."""
    allotted = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    devices = [device.strip() for device in allotted.split(",")] if allotted else []
    if devices and gpu >= len(devices):
        raise UserError(f"--gpu {gpu}: CUDA_VISIBLE_DEVICES is {allotted}; allowed: 0 to {len(devices) - 1}")
    return devices[gpu] if devices else str(gpu)


def choose_gpu(args) -> str:
    """Make `--gpu` the only GPU for torch; call this before torch starts. Returns torch's name of the device for a
    computation: "cpu" without `--gpu`, or if torch finds no GPU, which a line says."""
    if args.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = _visible(args.gpu)
    import torch

    from modules.utils.dist import compute_in_full_fp32

    compute_in_full_fp32()
    if args.gpu is None:
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    say(f"--gpu {args.gpu}: torch finds no CUDA device; the CPU computes")
    return "cpu"


def given_network(args) -> Network:
    """The network of the flags above; UserError if they name none or several, or if --use_se cannot change it."""
    arch = "" if args.arch.startswith(MASTERNET) else args.arch
    structure = args.plainnet_struct or args.plainnet_struct_txt
    given = [text for text in (args.network, arch, structure) if text]
    if len(given) != 1:
        raise UserError(f"{len(given)} of --network, --arch and --plainnet_struct_txt name a network; expected one")
    network = read_network(given[0])
    if args.use_se:
        body = network.space.superspace.removesuffix(SE)
        if "(" not in body:
            raise UserError(f"--use_se with {given[0]}; allowed: with a structure string or its file")
        network = read_network(body + SE).at(network.resolution)
    return network.at(args.input_image_size or 0)


def add_training_flags(parser, teacher: bool) -> None:
    """The published recipe; with `teacher`, that of teacher-student training too."""
    data = parser.add_argument_group("data")
    option(data, "--dataset", "imagenet", "imagenet (with colour noise), cifar10, cifar100, or a data set by its name "
           "here: folder, digits ...")
    option(data, "--data_dir", "", "folder of the images", aliases=("--dataset_path", "--data"))
    option(data, "--valid_size", 0, "training images held out for validation; 0: the validation set", low=0)
    option(data, "--auto_augment", False, "AutoAugment")
    option(data, "--random_erase", False, f"RandomErasing with probability {ERASING}")
    option(data, "--mixup", False, f"mixup, the share from Beta({MIXUP}, {MIXUP})")
    replace(WORKERS, default=6).add_to(data, "--workers_per_gpu")
    option(data, "--batch_size_per_gpu", 64, "images per step and process", **TRAIN_BATCH)
    recipe = parser.add_argument_group("recipe")
    option(recipe, "--epochs", 480, "epochs", low=1)
    option(recipe, "--warmup", 5.0, "epochs in which the learning rate rises from 0", low=0, unit="epochs")
    option(recipe, "--optimizer", "sgd", "optimiser", choices=("sgd", "adam"))
    option(recipe, "--momentum", 0.9, "momentum of SGD", low=0, below=1)
    option(recipe, "--nesterov", False, "Nesterov's form of the momentum")
    option(recipe, "--wd", 4e-5, "weight decay of convolutions and of the classifier", low=0,
           aliases=("--weight_decay",))
    option(recipe, "--lr_per_256", 0.1, "learning rate for 256 images per step", low=0)
    option(recipe, "--target_lr_per_256", 0.0, "least learning rate", low=0)
    option(recipe, "--lr_mode", "cosine", "decay of the learning rate", choices=("cosine", "linear"))
    option(recipe, "--grad_clip", 0.0, "largest size of an entry of a gradient; 0: any", low=0)
    option(recipe, "--label_smoothing", False, f"label smoothing of {SMOOTHING}")
    option(recipe, "--weight_init", "custom", "how weights start; custom: Xavier-normal with a gain of 3.26033",
           choices=("default", "custom"))
    option(recipe, "--bn_momentum", 0.01, "share of a batch in the running statistics of batch norm", above=0, high=1)
    option(recipe, "--bn_eps", 1e-3, "number added to the variance in batch norm", above=0, high=1)
    option(recipe, "--load_parameters_from", "", "file with the first weights; a published one too")
    if teacher:
        _add_teacher_flags(parser.add_argument_group("teacher"))
    how = parser.add_argument_group("run")
    option(how, "--quant_mode", False, "train int8 from the checkpoint.pth of the same folder")
    option(how, "--dist_mode", "", "cpu: no GPU; processes otherwise come from the launcher (torchrun)",
           choices=("", "cpu", "single", "auto", "horovod", "apex", "mpi"))
    option(how, "--apex", False, "bf16 where a short measurement says that it is faster", aliases=("--fp16",))
    option(how, "--sync_bn", False, "batch norm over the images of all processes")
    option(how, "--save_dir", "results/zen_nas/train", "folder of the run")
    option(how, "--print_freq", 100, "steps between log lines", low=1)
    option(how, "--save_freq", 10, "accepted for old command lines; every epoch is saved", low=1)
    option(how, "--debug_batches", 0, "steps after which every epoch stops; 0: never", low=0)
    option(how, "--auto_resume", False, "another name of --resume")
    SEED.add_to(how, "--seed")
    add_local_rank(how)


def _add_teacher_flags(group) -> None:
    option(group, "--teacher_arch", "", "network to learn from")
    option(group, "--teacher_load_parameters_from", "", "its checkpoint: of a network trained here, or a ZenNet's "
           "published file")
    option(group, "--teacher_pretrained", False, "a ZenNet's published file from the folder where the published "
           "program keeps it")
    option(group, "--teacher_input_image_size", None, "its resolution", kind=int, shown="that of its training",
           **PIXELS)
    option(group, "--teacher_feature_weight", 1.0, "factor of the loss of features", low=0)
    option(group, "--teacher_logit_weight", 1.0, "factor of the loss of logits", low=0)
    option(group, "--target_downsample_ratio", 16, "first stride of the features to learn; the second is twice that",
           low=1, high=512)
    option(group, "--ts_clip", 0.0, "largest size of a teacher's feature; 0: any", low=0)
    option(group, "--ts_proj_no_relu", False, "accepted for old command lines; projections have no ReLU")
    option(group, "--ts_proj_no_bn", False, "accepted for old command lines; projections have no batch norm")


def parse_training(doc: str, argv: list[str] | None, teacher: bool):
    """The values of the flags of a training program with the docstring `doc`, with or without a teacher's."""
    parser = make_parser(doc)
    add_network_flags(parser)
    add_training_flags(parser, teacher)
    add_run_arguments(parser, "training of this mode")
    return parser.parse_args(argv)


def training_config(args, network: Network) -> TrainConfig:
    """The settings of the run."""
    if args.target_lr_per_256 > args.lr_per_256:
        raise UserError(f"--target_lr_per_256 {args.target_lr_per_256:g}; allowed: 0 to --lr_per_256 "
                        f"{args.lr_per_256:g}")
    if args.lr_mode == "linear" and args.target_lr_per_256:
        say("--target_lr_per_256 has no effect with --lr_mode linear, which ends at 0")
    if args.quant_mode and args.load_parameters_from:
        say("--load_parameters_from has no effect with --quant_mode, which starts from checkpoint.pth")
    dataset = DATASETS.get(args.dataset.lower(), args.dataset)
    config = TrainConfig(
        dataset=dataset, dataset_path=args.data_dir, valid_size=args.valid_size,
        augment="auto_augment" if args.auto_augment else "default",
        random_erasing=ERASING if args.random_erase else 0.0, lighting=LIGHTING if dataset == "folder" else 0.0,
        mixup=MIXUP if args.mixup else 0.0, label_smoothing=SMOOTHING if args.label_smoothing else 0.0, dropout=0.0,
        eval_crop=1.0 if dataset.startswith("CIFAR") else 0.875, subnet_choice=str(network.subnet),
        resolutions=(network.resolution,), batch_size_per_gpu=args.batch_size_per_gpu,
        data_loader_workers_per_gpu=args.workers_per_gpu, epochs=args.epochs, warmup_epochs=args.warmup,
        optimizer=args.optimizer, momentum=args.momentum, nesterov=args.nesterov, weight_decay_weight=args.wd,
        base_lr=args.lr_per_256, schedule=args.lr_mode,
        clamp_lr_percent=args.target_lr_per_256 / args.lr_per_256 if args.lr_per_256 else 0.0,
        grad_clip_value=args.grad_clip, weight_init=args.weight_init, zero_last_gamma=args.weight_init == "custom",
        bn_momentum=args.bn_momentum, bn_eps=args.bn_eps, init_checkpoint=args.load_parameters_from,
        amp="auto" if args.apex else "none", sync_bn=args.sync_bn, models_save_dir=args.save_dir,
        print_freq=args.print_freq, debug_batches=args.debug_batches, seed=args.seed, placement="engine",
        **_teacher(args))
    if args.quant_mode:
        config = replace(config, init_checkpoint="").for_quantization()
    return config


def _teacher(args) -> dict:
    """The settings of the teacher."""
    if not getattr(args, "teacher_arch", ""):
        return {}
    from modules.zero_shot.published.zennet import cached_weights

    teacher = read_network(args.teacher_arch).at(args.teacher_input_image_size or 0)
    path = args.teacher_load_parameters_from
    if not path and not args.teacher_pretrained:
        raise UserError(f"--teacher_arch {args.teacher_arch} without weights; expected --teacher_load_parameters_from "
                        "FILE, or --teacher_pretrained of a ZenNet")
    first = args.target_downsample_ratio
    return {"teacher": (str(teacher),), "teacher_checkpoint": path or str(cached_weights(args.teacher_arch)),
            "teacher_strides": (first, 2 * first), "teacher_feature_weight": args.teacher_feature_weight,
            "teacher_logit_weight": args.teacher_logit_weight, "ts_clip": args.ts_clip}


def add_validation_flags(parser, arch: str) -> None:
    """The ZenNet, its weights, and the images; `arch` is the default ZenNet."""
    option(parser, "--arch", arch, "a published ZenNet")
    option(parser, "--weights", "", "its published weight file", shown="that in the folder of the published program")
    option(parser, "--data", "", "folder of the images", aliases=("--dataset_path", "--data_dir"))
    option(parser, "--dataset", "", "data set by its name here", shown="that of the network")
    option(parser, "--batch_size", 128, "images per batch", **BATCH)
    replace(WORKERS, default=6).add_to(parser, "--workers")
    option(parser, "--gpu", None, "number of the GPU to use", kind=int, low=0, high=1023, shown="CPU")
    option(parser, "--fp16", False, "accepted for old command lines; fp32 computes")
    option(parser, "--apex", False, "accepted for old command lines; fp32 computes")
