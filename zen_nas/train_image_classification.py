"""Train one network by the recipe of Zen-NAS, under the flags of its published program.

    python zen_nas/train_image_classification.py --dataset cifar10 --data_dir data/cifar10 --num_classes 10 \\
        --input_image_size 32 --epochs 1440 --warmup 5 --optimizer sgd --bn_momentum 0.01 --wd 5e-4 --nesterov \\
        --weight_init custom --label_smoothing --random_erase --mixup --auto_augment --lr_per_256 0.1 \\
        --target_lr_per_256 0.0 --lr_mode cosine --arch Masternet.py:MasterNet \\
        --plainnet_struct_txt results/zen_nas/best_structure.txt --batch_size_per_gpu 64 --save_dir results/zen_cifar10

On the embedded digits, seconds:

    python zen_nas/train_image_classification.py --dataset digits --network resnet8:0.25 --epochs 1 --nesterov \\
        --workers_per_gpu 0 --save_dir results/zen_digits

--quant_mode afterwards trains int8. The run, its settings and --resume are those of train_supernet.py --network. Its
yaml files have every other setting (supernet_training_configs/zen_imagenet.yaml, zen_cifar.yaml). Writes
<save_dir>/<network>-align0/checkpoint.pth (lsq.pth in int8) for all other scripts. A Zen structure is also written to
<save_dir>/best-params_rank0.pth under the published names.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.utils.cli import run
from modules.zero_shot.published.flags import parse_training


def main(argv=None):
    args = parse_training(__doc__, argv, teacher=False)

    from modules.zero_shot.published.training import train_published

    train_published(args, "best-params_rank0.pth")


if __name__ == "__main__":
    run(main)
