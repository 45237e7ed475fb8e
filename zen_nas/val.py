"""Accuracy of a published ZenNet on ImageNet: crops of 320 pixels (380 of the largest net), resized to 224 bilinearly.

    python zen_nas/val.py --arch zennet_imagenet1k_flops400M_SE_res224 --data /path/to/imagenet \\
        --weights student_best-params_rank0.pth

Without --weights the file is read from the published program's folder. eval_specific_net.py --network evaluates a
network that was trained here.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.utils.cli import make_parser, run
from modules.zero_shot.published.flags import add_validation_flags


def main(argv=None):
    parser = make_parser(__doc__)
    add_validation_flags(parser, "zennet_imagenet1k_flops400M_SE_res224")
    args = parser.parse_args(argv)

    from modules.zero_shot.published.validation import validate_published

    print(validate_published(args, args.dataset or "folder"))


if __name__ == "__main__":
    run(main)
