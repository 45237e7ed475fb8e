"""Evaluate subnets of trained supernets: accuracy (--mode acc) or latency (--mode lat).

    python eval_supernet.py --superspace onnxw_tiny --supernet_choice 053412-000000 --quant_mode
    python eval_supernet.py --superspace onnxw_tiny --supernet_choice 053412-000000 --quant_mode --num_random 3
    python eval_supernet.py --superspace onnxw_tiny --supernet_choice 053412-000000 --mode lat

Accuracy is that of the subnets given, or of the largest and smallest and --num_random random ones, batch norm
calibrated; rows are appended to --output. Latency is printed for the subnets given; without, --num_samples random ones
of each supernet are drawn and their distribution is plotted; rows go to <output>/predicted_latency.csv.
"""
from pathlib import Path

from modules.training.arguments import add_data_arguments, add_space_arguments, make_evaluator
from modules.utils.cli import add_local_rank, make_parser, run


def main():
    parser = make_parser(__doc__)
    add_space_arguments(parser, several=True)
    add_data_arguments(parser)
    parser.add_argument("--mode", choices=("acc", "lat"), default="acc")
    parser.add_argument("--subnet_choice", nargs="*", default=[], help="subnet encodings, d..._k..._w..._e..._r...")
    parser.add_argument("--num_random", type=int, default=0, help="random subnets to evaluate besides the extremes")
    parser.add_argument("--platform", default="", help="of the latency; default: the superspace's")
    parser.add_argument("--num_samples", type=int, default=1000, help="subnets in the latency distribution")
    parser.add_argument("--resolutions", type=int, nargs="+", default=[], metavar="PIXELS",
                        help="of the latencies; default: the superspace's")
    parser.add_argument("--output", default="results/eval_supernet", help="folder of tables and figures")
    add_local_rank(parser)
    args = parser.parse_args()

    from modules.search_space.config import SupernetConfig

    spaces = [SupernetConfig.from_choice(args.superspace, choice) for choice in args.supernet_choice]
    if args.mode == "lat":
        report_latency(args, spaces)
    else:
        report_accuracy(args, spaces)


def report_accuracy(args, spaces):
    import numpy as np

    from modules.modeling.complexity import count_net_flops_and_params
    from modules.modeling.net_spec import resolve
    from modules.search_space.config import SubnetChoiceConfig
    from modules.utils.dist import close, init_distributed, rank
    from modules.utils.results import append_row

    device = init_distributed(args.local_rank)
    for space in spaces:
        evaluator = make_evaluator(args, space, device)
        subnets = evaluator.model.subnets
        choices = [subnets.check(SubnetChoiceConfig.from_str(text)) for text in args.subnet_choice]
        if not choices:
            rng = np.random.default_rng(args.seed)
            choices = [subnets.extreme(max), subnets.extreme(min)]
            choices += [subnets.sample(rng) for _ in range(args.num_random)]
        for choice in choices:
            accuracy = evaluator.accuracy(choice)
            flops, params = count_net_flops_and_params(resolve(space, choice, evaluator.model.num_classes))
            low, high = accuracy.interval
            if rank() == 0:
                print(f"{choice}: acc1 {accuracy} of {accuracy.images} images, {flops:.2f} MFLOPs, {params:.2f} M "
                      "params", flush=True)
                append_row(Path(args.output) / "accuracy.csv", {
                    "enc": choice, "acc1": f"{accuracy.top1:.2f}", "flops": f"{flops:.2f}", "params": f"{params:.2f}",
                    "acc1_low": f"{low:.2f}", "acc1_high": f"{high:.2f}", "images": accuracy.images, "supernet": space,
                    "quant_mode": int(args.quant_mode)})
    close()


def report_latency(args, spaces):
    import numpy as np
    from tqdm import tqdm

    from modules.latency import get_platform
    from modules.latency.report import draw_latency_cdf
    from modules.modeling.net_spec import resolve
    from modules.search_space.config import SubnetChoiceConfig
    from modules.search_space.subnet_space import SubnetSpace
    from modules.utils.results import append_row

    name = args.platform or spaces[0].space.default_platform
    platform, latencies = get_platform(name), {}

    def predict(space, choice):
        latency = platform.predict_subnet(resolve(space, choice))
        append_row(Path(args.output) / "predicted_latency.csv", {
            "enc": choice, "latency_ms": f"{latency:.4f}", "platform": name, "supernet": space})
        return latency

    for space in spaces:
        subnets = SubnetSpace(space, tuple(args.resolutions) or space.space.resolutions)
        if args.subnet_choice:
            for text in args.subnet_choice:
                choice = subnets.check(SubnetChoiceConfig.from_str(text))
                print(f"{choice} {predict(space, choice):.2f}ms")
            continue
        rng = np.random.default_rng(args.seed)
        latencies[str(space)] = np.array([
            predict(space, subnets.sample(rng))
            for _ in tqdm(range(args.num_samples), desc=str(space), disable=None)])
        low, middle, high = np.percentile(latencies[str(space)], (0, 50, 100))
        print(f"{space}: min {low:.2f}ms, median {middle:.2f}ms, max {high:.2f}ms of {args.num_samples} subnets")
    if latencies:
        path = Path(args.output) / f"{args.superspace}-latency_cdf.png"
        draw_latency_cdf(latencies, path, name)
        print(f"figure: {path}")


if __name__ == "__main__":
    run(main)
