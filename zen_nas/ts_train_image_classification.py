"""Teacher-student training by the recipe of Zen-NAS, under the flags of its published program.

    python zen_nas/ts_train_image_classification.py --dataset imagenet --data_dir /path/to/imagenet \\
        --num_classes 1000 --input_image_size 224 --epochs 480 --warmup 5 --optimizer sgd --bn_momentum 0.01 \\
        --wd 4e-5 --nesterov --weight_init custom --label_smoothing --random_erase --mixup --auto_augment \\
        --lr_per_256 0.1 --arch Masternet.py:MasterNet --plainnet_struct_txt results/zen_nas/best_structure.txt \\
        --use_se --teacher_arch zennet_imagenet1k_latency12ms_res224 --teacher_pretrained \\
        --teacher_feature_weight 1.0 --teacher_logit_weight 1.0 --ts_proj_no_relu --ts_proj_no_bn \\
        --target_downsample_ratio 16 --batch_size_per_gpu 64 --save_dir results/zen_ts

The student learns from the labels and from the teacher's logits. Through 1 x 1 projections it also learns from the
teacher's features at two strides, 16 and 32 by default: the output of the last block there. The teacher is any network
with a checkpoint of train_supernet.py or of these scripts, or a ZenNet with its published weights. Files are those of
train_image_classification.py; the published form is <save_dir>/student_best-params_rank0.pth.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.utils.cli import run
from modules.zero_shot.published.flags import parse_training


def main(argv=None):
    args = parse_training(__doc__, argv, teacher=True)

    from modules.utils.errors import UserError
    from modules.zero_shot.published.training import train_published

    if not args.teacher_arch:
        raise UserError("no --teacher_arch; train_image_classification.py trains without a teacher")
    train_published(args, "student_best-params_rank0.pth")


if __name__ == "__main__":
    run(main)
