"""Quantise the distilled blocks: LSQ+ int8 students of an LSQ+ int8 teacher (step 2 of the pipeline).

    python lsq_block_kd.py --superspace onnxw_tiny --teacher_arch efficientnet-tiny \\
        --teacher_checkpoint_path checkpoints/block_kd/teacher_checkpoint/lsq.pth \\
        --dataset digits --valid_size 240 --num_workers 0 --inplace_distill_from_teacher

    torchrun --nproc_per_node 4 lsq_block_kd.py --superspace onnxw --dataset_path /path/to/imagenet \\
        --train_batch_size 32 --inplace_distill_from_teacher

Reads <output_path>/<stage>_<block>/checkpoint.pth from train_block_kd.py, and writes lsq.pth beside it.
"""
from modules.block_kd.script import run_block_kd
from modules.utils.cli import run


def main(argv=None):
    run_block_kd(__doc__, int8=True, argv=argv)


if __name__ == "__main__":
    run(main)
