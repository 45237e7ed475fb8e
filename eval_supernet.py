"""Evaluate subnets of trained supernets: accuracy (--mode acc) or latency (--mode lat).

    python eval_supernet.py --superspace onnxw_tiny --supernet_choice 053412-000000 --quant_mode
    python eval_supernet.py --superspace onnxw_tiny --supernet_choice 053412-000000 --quant_mode --num_random 3
    python eval_supernet.py --superspace onnxw_tiny --supernet_choice 053412-000000 --mode lat
    python eval_supernet.py --network SEQnet@vnni-A0 mobilenet_v2:0.5 --mode lat --platform onnx_lut
    python eval_supernet.py --superspace onnxw --supernet_choice 151122-023231 121122-133333 --mode lat \\
        --platform onnx_lut tflite27_cpu_int8

Accuracy is that of the given subnets, or of the largest, the smallest and --num_random random ones, with calibrated
batch norm. Rows are appended to tables in --output. Latency is printed for the given subnets; ~ marks one outside the
domain that the platform's model was fitted on. Without subnets, --num_samples random ones of each supernet are drawn,
and their distribution on each platform is plotted. Rows go to <output>/predicted_latency.csv.
"""
from pathlib import Path

from modules.latency.arguments import add_platform_arguments
from modules.training.arguments import Evaluation, add_space_arguments, given_networks, make_evaluator
from modules.utils.cli import add_local_rank, make_parser, run, say_unused
from modules.utils.errors import UserError
from modules.utils.settings import PIXELS, add_arguments, from_arguments, option


def main(argv=None):
    parser = make_parser(__doc__)
    add_space_arguments(parser, several=True, network=True)
    add_arguments(parser, Evaluation)
    option(parser, "--mode", "acc", "accuracy or latency", choices=("acc", "lat"))
    option(parser, "--subnet_choice", (), "subnets, d..._k..._w..._e..._r...", kind=str, many="*")
    option(parser, "--num_random", 0, "random subnets to evaluate besides the extremes", low=0)
    add_platform_arguments(parser)
    option(parser, "--num_samples", 1000, "subnets in the latency distribution", low=1)
    option(parser, "--num_classes", 1000, "classes of the networks whose latency is predicted", low=1, high=10**6)
    option(parser, "--resolutions", (), "resolutions of the latencies", kind=int, many="+", shown="the superspace's",
           **PIXELS)
    option(parser, "--output", "results/eval_supernet", "folder of tables and figures")
    add_local_rank(parser)
    args = parser.parse_args(argv)

    if args.network and args.subnet_choice:
        raise UserError("--subnet_choice beside --network, which names a subnet; expected one of them")
    spaces = given_networks(args)
    other = ("num_random",) if args.mode == "lat" else ("platform", "latency_table", "num_samples", "num_classes",
                                                        "resolutions")
    say_unused(args, parser, other, f"in --mode {args.mode}")
    if args.mode == "lat":
        report_latency(args, spaces)
    else:
        report_accuracy(args, spaces)


def report_accuracy(args, spaces):
    import numpy as np

    from modules.modeling.complexity import count_net_flops_and_params
    from modules.modeling.net_spec import resolve
    from modules.modeling.restore import find_checkpoint
    from modules.search_space.config import SubnetChoiceConfig
    from modules.utils.dist import close, init_distributed, rank
    from modules.utils.results import append_row

    evaluation, device = from_arguments(Evaluation, args), init_distributed(args.local_rank)
    for space, network in spaces:
        path = find_checkpoint(args.resume, space, args.quant_mode, args.align_sample,
                               network.supernet if network else "")
        evaluator = make_evaluator(evaluation, path, space, quant_mode=args.quant_mode, device=device)
        subnets = evaluator.model.subnets
        choices = [subnets.check(SubnetChoiceConfig.from_str(text)) for text in args.subnet_choice]
        if not choices and network:
            choices = [evaluator.choice_of(network)]
        if not choices and evaluator.record.only_subnet:
            choices = [evaluator.record.only_subnet]
        if not choices:
            rng = np.random.default_rng(evaluation.seed)
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

    from modules.latency.arguments import make_platforms
    from modules.latency.report import draw_latency_cdf, latency_summary, predict_latencies
    from modules.search_space.config import SubnetChoiceConfig
    from modules.search_space.subnet_space import SubnetSpace
    from modules.utils.results import append_rows

    platforms_of = {default: make_platforms(args.platform, args.latency_table, space) for default, space in
                    {space.space.default_platform: space.space for space, _ in spaces}.items()}
    curves, several = {}, len({name for platforms in platforms_of.values() for name in platforms}) > 1
    table = Path(args.output) / "predicted_latency.csv"
    for space, network in spaces:
        subnets = SubnetSpace(space, tuple(args.resolutions) or space.space.resolutions)
        rng = np.random.default_rng(from_arguments(Evaluation, args).seed)
        choices = [subnets.check(SubnetChoiceConfig.from_str(text)) for text in args.subnet_choice]
        if not choices and network:
            choices = [network.at(resolution).subnet for resolution in dict.fromkeys(args.resolutions or [0])]
        named = bool(choices)
        choices = choices or [subnets.sample(rng) for _ in range(args.num_samples)]
        for name, platform in platforms_of[space.space.default_platform].items():
            prediction, rows = predict_latencies(name, platform, space, choices, args.num_classes)
            append_rows(table, rows)
            if named:
                for i, choice in enumerate(choices):
                    where = f" at {choice.resolution} pixels" if network and len(choices) > 1 else ""
                    print(f"{network or choice}{where} {prediction.text(i)}ms" + f" {name}" * several)
            else:
                curves[str(space), name] = prediction
                print(f"{space} on {name}: {latency_summary(prediction)}")
    if curves:
        path = Path(args.output) / f"{spaces[0][0].space.name}-latency_cdf.png"
        draw_latency_cdf(curves, path)
        print(f"figure: {path}")


if __name__ == "__main__":
    run(main)
