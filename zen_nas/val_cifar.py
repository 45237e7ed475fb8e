"""Accuracy of a published ZenNet on CIFAR-10 or CIFAR-100, by its name.

    python zen_nas/val_cifar.py --arch zennet_cifar10_model_size05M_res32 --data data/cifar10 \\
        --weights best-params_rank0.pth

--data is torchvision's folder of the data set; --dataset folder reads images. Without --weights the file is read from
the published program's folder.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.utils.cli import make_parser, run
from modules.zero_shot.published.flags import add_validation_flags


def main(argv=None):
    parser = make_parser(__doc__)
    add_validation_flags(parser, "zennet_cifar10_model_size05M_res32")
    args = parser.parse_args(argv)

    from modules.zero_shot.published.validation import validate_published

    print(validate_published(args, args.dataset or ("CIFAR100" if "cifar100" in args.arch else "CIFAR10")))


if __name__ == "__main__":
    run(main)
