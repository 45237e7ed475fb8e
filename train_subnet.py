"""Train the subnets that a search found on, each alone: fp32, then int8 (LSQ+), from the weights of their supernet.

    python train_subnet.py --input results/search_subnet/onnxw_tiny-512202-012000/0.7+1ms/export.csv \\
        --config-file supernet_training_configs/digits.yaml --epochs 4 --base_lr 0.04 --quant_epochs 2

The teacher is the largest subnet of the same supernet, with its trained weights. The subnet learns from its answers and
from the labels. --teacher takes any other network, with --teacher_checkpoint; --teacher none leaves the labels alone.
Resolutions are those of the supernet.

Writes <models_save_dir>/<subnet>/<superspace>-<choice>-align0/checkpoint.pth and lsq.pth, where <subnet> is the name
that an exported file of the subnet has. A killed run goes on with --resume.
"""
from dataclasses import MISSING, replace

from modules.training.arguments import SUPERNETS
from modules.training.config import SANDWICH, TrainConfig, add_config_arguments, load_yaml
from modules.utils.cli import add_local_rank, add_run_arguments, make_parser, run, say_unused
from modules.utils.notes import print_once, say
from modules.utils.settings import given_arguments, idle_settings, option

FOLDER = "checkpoints/tuned"


def main(argv=None):
    parser = make_parser(__doc__)
    option(parser, "--input", MISSING, "file of lines superspace,choice,subnet, such as export.csv of a search",
           kind=str)
    option(parser, "--checkpoint_path", SUPERNETS, "checkpoint.pth of the supernet, or the folder that holds "
           "<superspace>-<choice>-align0/checkpoint.pth")
    add_run_arguments(parser, "training of these subnets")
    add_config_arguments(parser, ("subnet_choice", "init_checkpoint", "resolutions", *SANDWICH), models_save_dir=FOLDER,
                         shown={"teacher": "the supernet's largest subnet", "teacher_checkpoint": "the supernet's"})
    add_local_rank(parser)
    args = parser.parse_args(argv)
    defaults = load_yaml(args.config_file) | {"models_save_dir": FOLDER}
    given = given_arguments(TrainConfig, args)
    config = TrainConfig(**defaults | given)  # a teacher and a start are added below
    teacher = () if config.teacher == ("none",) else config.teacher or ("largest",)
    for line in idle_settings(replace(config, teacher=teacher, init_checkpoint="supernet"), given):
        say(line)
    if teacher == ("largest",):  # its blocks are those of the student, so its answers are enough
        say_unused(args, parser, ("teacher_strides", "teacher_feature_weight", "ts_clip"),
                   "without --teacher: the largest subnet teaches by its answers alone")

    from modules.search.subnet.tuning import tune
    from modules.search_space.subnet_list import read_subnets
    from modules.utils.dist import close, init_distributed

    subnets = list(dict.fromkeys(read_subnets(args.input)))
    device = init_distributed(args.local_rank)
    folders = tune(config, subnets, args.checkpoint_path, resume=args.resume, overwrite=args.overwrite, device=device)
    for (space, subnet), folder in zip(subnets, folders, strict=True):
        print_once(f"trained {space}-{subnet}: {folder}")
    close()


if __name__ == "__main__":
    run(main)
