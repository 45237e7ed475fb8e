"""Evaluate one network by its name: a published supernet or subnet of data/search_results.yaml, or any that --network
of the other scripts takes.

    python eval_specific_net.py --model_name SEQnet@vnni-A0 --quant_mode --dataset_path /path/to/imagenet
    python eval_specific_net.py --model_name spaceevo@vnni --quant_mode --dataset_path /path/to/imagenet
    python eval_specific_net.py --network resnet20:0.5 --quant_mode

The weights must be at <resume>/<supernet>/lsq.pth (checkpoint.pth without --quant_mode), for example
checkpoints/supernet_training/spaceevo@vnni/lsq.pth. --resume may also name the file. Published names
are accepted in any case.
"""
from dataclasses import MISSING

from modules.training.arguments import SUPERNETS, Evaluation
from modules.utils.cli import add_local_rank, make_parser, run
from modules.utils.settings import add_arguments, from_arguments, option


def main(argv=None):
    parser = make_parser(__doc__)
    option(parser, "--model_name", MISSING, "spaceevo@... (largest and smallest net), or a network: SEQnet@..., "
           "resnet20:0.5, a Zen structure ...", kind=str, aliases=("--network",))
    option(parser, "--subnet_choice", (), "subnets of the supernet of --model_name to evaluate instead, "
           "d..._k..._w..._e..._r...", kind=str, many="*")
    option(parser, "--quant_mode", False, "int8")
    option(parser, "--resume", SUPERNETS, "folder that holds <supernet>/, or the checkpoint file")
    add_arguments(parser, Evaluation)
    add_local_rank(parser)
    args = parser.parse_args(argv)

    from modules.modeling.complexity import count_net_flops_and_params
    from modules.modeling.net_spec import resolve
    from modules.modeling.restore import find_checkpoint
    from modules.search_space.config import SubnetChoiceConfig
    from modules.search_space.published import find_published, is_published_supernet
    from modules.search_space.reference import read_network
    from modules.training.arguments import make_evaluator
    from modules.utils.dist import close, init_distributed, rank

    if is_published_supernet(args.model_name):
        (name, supernet, space, _), network = find_published(args.model_name), None
    else:
        network = read_network(args.model_name)
        name, supernet, space = network.name, network.supernet, network.space
    path = find_checkpoint(args.resume, space, args.quant_mode, supernet=supernet)
    evaluator = make_evaluator(from_arguments(Evaluation, args), path, space, quant_mode=args.quant_mode,
                               device=init_distributed(args.local_rank))
    subnets = evaluator.model.subnets
    choices = {text: subnets.check(SubnetChoiceConfig.from_str(text)) for text in args.subnet_choice}
    if not choices and network is None:
        accuracies = [evaluator.accuracy(subnets.extreme(pick)) for pick in (max, min)]
        if rank() == 0:
            print(f"{name}: max_net_acc={accuracies[0].top1:.2f}, min_net_acc={accuracies[1].top1:.2f}")
    elif not choices:
        choices = {name: evaluator.choice_of(network)}
    for name, choice in choices.items():
        accuracy = evaluator.accuracy(choice)
        flops, params = count_net_flops_and_params(resolve(space, choice, evaluator.model.num_classes))
        if rank() == 0:
            print(f"{name}: acc1={accuracy.top1:.2f}, flops={flops:.2f} params={params:.2f}", flush=True)
    close()


if __name__ == "__main__":
    run(main)
