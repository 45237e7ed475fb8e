"""Distil the candidate blocks of every stage from a teacher, in fp32 (step 1 of the pipeline).

On the embedded digits, one CPU, with the small teacher of `python -m modules.block_kd.teacher`:

    python train_block_kd.py --superspace onnxw_tiny --teacher_arch efficientnet-tiny \\
        --teacher_checkpoint_path checkpoints/block_kd/teacher_checkpoint/checkpoint.pth \\
        --dataset digits --valid_size 240 --num_epochs 2 --num_workers 0 --inplace_distill_from_teacher

On ImageNet with 4 GPUs, from torchvision's EfficientNet-B5:

    torchrun --nproc_per_node 4 train_block_kd.py --superspace onnxw --dataset_path /path/to/imagenet \\
        --inplace_distill_from_teacher

Writes <output_path>/<stage>_<block>/checkpoint.pth. All blocks of a stage share the teacher's work; --stage_list
spreads stages over machines.
"""
from modules.block_kd.script import run_block_kd
from modules.utils.cli import run


def main(argv=None):
    run_block_kd(__doc__, int8=False, argv=argv)


if __name__ == "__main__":
    run(main)
