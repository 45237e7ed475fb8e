"""Evaluate the published supernets and subnets of data/search_results.yaml.

    python eval_specific_net.py --model_name SEQnet@vnni-A0 --quant_mode --dataset_path /path/to/imagenet
    python eval_specific_net.py --model_name spaceevo@vnni --quant_mode --dataset_path /path/to/imagenet

The weights are expected at <resume>/<supernet>/lsq.pth (checkpoint.pth without --quant_mode), for example
checkpoints/supernet_training/spaceevo@vnni/lsq.pth. Names are accepted in any case.
"""
from modules.training.arguments import add_data_arguments
from modules.utils.cli import add_local_rank, make_parser, run


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--model_name", required=True, help="spaceevo@... (largest and smallest net) or SEQnet@...")
    parser.add_argument("--quant_mode", action="store_true", help="int8")
    parser.add_argument("--resume", default="checkpoints/supernet_training", help="folder that holds <supernet>/")
    add_data_arguments(parser)
    add_local_rank(parser)
    args = parser.parse_args()

    from pathlib import Path

    from modules.modeling.complexity import count_net_flops_and_params
    from modules.modeling.net_spec import resolve
    from modules.search_space.published import find_published
    from modules.training.arguments import make_evaluator
    from modules.utils.dist import close, init_distributed, rank

    name, supernet, space, choice = find_published(args.model_name)
    path = Path(args.resume) / supernet / ("lsq.pth" if args.quant_mode else "checkpoint.pth")
    evaluator = make_evaluator(args, space, init_distributed(args.local_rank), path)
    if choice is None:
        accuracies = [evaluator.accuracy(evaluator.model.subnets.extreme(pick)) for pick in (max, min)]
        line = f"{name}: max_net_acc={accuracies[0].top1:.2f}, min_net_acc={accuracies[1].top1:.2f}"
    else:
        accuracy = evaluator.accuracy(choice)
        flops, params = count_net_flops_and_params(resolve(space, choice, evaluator.model.num_classes))
        line = f"{name}: acc1={accuracy.top1:.2f}, flops={flops:.2f} params={params:.2f}"
    if rank() == 0:
        print(line)
    close()


if __name__ == "__main__":
    run(main)
