"""Adjustable Quantization against uniform bits on one trained network: accuracy at equal scores, with intervals.

    python benchmarks/adjustable_cifar.py --superspace onnxw_tiny --supernet_choice 512202-012000 \\
        --subnet_choice $LARGEST --checkpoint_path long --output_dir checkpoints/adjustable_cifar

Takes a network that train_supernet.py trained, with and without --quant_mode (checkpoint.pth and lsq.pth in a folder).
Measured are the network in fp32, LSQ+ in 8 bits, uniform 4 bits, and bits per channel driven to the score of uniform 4
bits and to lower ones, then bits per layer (weights of 4 or 8, tensors of 8, which score 0.375 at least). Scores are
relative to the network itself in 32 bits, which scores 2. Uniform and adjustable start from LSQ+'s scales and train as
long: --epochs, in which the bits move in every second mini-epoch, then --tune_epochs with the bits as they are from the
best point within the target, whose last weights are averaged. Points are picked on held-out training images; accuracies
are those of the data set's test images. Every run has its folder and is continued after a stop; table.csv holds a row
for each, with Wilson's 95 % interval, and a summary over the seeds is printed.
"""
import sys
from dataclasses import dataclass, replace
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from modules.adjustable.arguments import Source, add_source_arguments, make_source  # noqa: E402
from modules.adjustable.config import AdjustConfig  # noqa: E402
from modules.training.arguments import given_networks  # noqa: E402
from modules.utils.cli import make_parser, run  # noqa: E402
from modules.utils.errors import UserError  # noqa: E402
from modules.utils.settings import TRAIN_BATCH, from_arguments, option  # noqa: E402

LEAST_BY_LAYER = 0.375  # of weights of 4 bits and tensors of 8


@dataclass(frozen=True)
class Case:
    """One line of the table: its name and the settings of its first round; None: nothing is trained."""

    name: str
    config: AdjustConfig | None = None
    int8: bool = True


def uniform_score(space, choice, classes: int) -> float:
    """The score of 4 bits everywhere: 0.25 and what biases, the image and swish have in 8 bits."""
    from modules.adjustable.network import AdjustableNetwork
    from modules.deploy.graph.untrained import untrained_graph

    config = AdjustConfig(norms="own", weight_bits=4, act_bits=4)
    graph = untrained_graph(space, choice, int8=False, num_classes=classes)
    return AdjustableNetwork(graph, config.quantizers).score(config.gamma, config.norms).item()


def cases(args, uniform: float) -> list[Case]:
    """The lines of the table, for one seed; `uniform` is the score of 4 bits everywhere."""
    common = AdjustConfig(norms="own", alpha=7, beta=args.beta, lr=args.lr, lr_fixed=True, lr_bits=args.lr_bits,
                          batch_size=args.batch_size, max_epoch=args.epochs, aug=True)
    learned = replace(common, bits_trainable=True, iter_train=True)
    return [Case("fp32", int8=False), Case("LSQ+ 8 bits"),
            Case("uniform 4 bits", replace(common, metric=uniform, weight_bits=4, act_bits=4)),
            *(Case(f"channel {share:g} of it", replace(learned, metric=share * uniform)) for share in args.targets),
            *(Case(f"layer {target:g}", replace(learned, metric=target, granularity="layer"))
              for target in args.layer_targets)]


def second_round(config: AdjustConfig, args) -> AdjustConfig:
    """The bits as they are, a third of the rate, the weights of the second half averaged."""
    return replace(config, finetune=True, alpha=25, beta=0, lr=args.lr / 3, max_epoch=args.tune_epochs,
                   swa_delay=args.tune_epochs / 2, swa_freq=0.1)


def measure(case: Case, seed: int, args, source: Source, space, choice) -> dict:
    """The row of one case: trains what is not trained yet, then evaluates on the test images."""
    from modules.adjustable.points import chosen_file
    from modules.adjustable.start import evaluate_adjustable
    from modules.adjustable.training import FILES, NAME, AdjustTrainer
    from modules.utils.runs import Run

    source = replace(source, quant_mode=case.int8)
    test = make_source(replace(source, valid_size=0), space, args.align_sample, batch_size=args.batch_size)
    row = {"case": case.name, "seed": seed}
    if case.config is None:
        return row | accuracy_row(test.accuracy(choice), 0.5 if case.int8 else 2.0)
    evaluator = make_source(source, space, args.align_sample, batch_size=args.batch_size, seed=seed,
                            calibration_batches=args.num_calib_batches)
    first, start = replace(case.config, seed=seed), None
    folder = Path(args.output_dir) / f"{case.name.replace(' ', '_')}_seed{seed}"
    for name, config in (("first", first), ("tuned", second_round(first, args))):
        with Run(folder / name / NAME, files=FILES, resume=True, overwrite=False, option="--output_dir") as opened:
            AdjustTrainer(evaluator, choice, config, opened, start=start).run()
        start = chosen_file(folder / name, f"score<={config.metric + 1e-6}" if reaches(folder / name, config) else "")
    network, config, accuracy = evaluate_adjustable(folder / "tuned" / "adj_swa.pth", test)
    weights, acts = (mean([bit for bits in part.values() for bit in bits]) for part in network.bits())
    return row | accuracy_row(accuracy, network.score(config.gamma, config.norms).item(), weights, acts)


def reaches(folder: Path, config: AdjustConfig) -> bool:
    """Whether a run has been at its target."""
    from modules.adjustable.points import read_points

    return min(point.score for point in read_points(folder)) <= config.metric + 1e-6


def mean(values: list[float]) -> float:
    """Of at least one value."""
    return sum(values) / len(values)


def accuracy_row(accuracy, score: float, weights: float | str = "", acts: float | str = "") -> dict:
    """The measured columns of a row."""
    low, high = accuracy.interval
    return {"score": round(score, 6), "top1": round(accuracy.top1, 3), "low": round(low, 3), "high": round(high, 3),
            "images": accuracy.images, "weight_bits": weights and round(weights, 3),
            "act_bits": acts and round(acts, 3)}


def summary(rows: list[dict]) -> list[dict]:
    """Means over the seeds, the spread between them, and the distance from uniform 4 bits with its 95 % interval (that
    of two independent shares, wider than that of the same images)."""
    named = {}
    for row in rows:
        named.setdefault(row["case"], []).append(row)
    base, lines = named.get("uniform 4 bits"), []
    for name, members in named.items():
        top1 = mean([row["top1"] for row in members])
        line = {"case": name, "score": f"{mean([row['score'] for row in members]):.4f}", "top1": f"{top1:.2f}",
                "seeds": " ".join(f"{row['top1']:.2f}" for row in members), "above uniform 4": ""}
        if base:
            reference = mean([row["top1"] for row in base])
            variances = [share * (100 - share) / sum(row["images"] for row in group)
                         for share, group in ((top1, members), (reference, base))]
            line["above uniform 4"] = f"{top1 - reference:+.2f} +- {1.96 * sum(variances) ** 0.5:.2f}"
        lines.append(line)
    return lines


def main(argv=None):
    parser = make_parser(__doc__)
    add_source_arguments(parser)
    option(parser, "--subnet_choice", "", "subnet of the superspace, d..._k..._w..._e..._r...")
    option(parser, "--output_dir", "checkpoints/adjustable_cifar", "folder of the runs and of table.csv")
    option(parser, "--targets", (1.0, 0.8, 0.65), "scores of bits per channel, as shares of that of uniform 4 bits",
           kind=float, many="*", above=0)
    option(parser, "--layer_targets", (0.45, 0.4), "scores of bits per layer", kind=float, many="*",
           low=LEAST_BY_LAYER)
    option(parser, "--seeds", (0, 1), "seeds of the runs", kind=int, many="+", low=0)
    option(parser, "--epochs", 4, "epochs in which the bits move", low=1, unit="epochs")
    option(parser, "--tune_epochs", 2, "epochs with the bits as they are", low=1, unit="epochs")
    option(parser, "--lr", 3e-4, "learning rate of weights and ranges", low=0)
    option(parser, "--lr_bits", 0.01, "learning rate of the bits", low=0)
    option(parser, "--beta", 85.0, "weight of the score", low=0)
    option(parser, "--batch_size", 50, "images per step", **TRAIN_BATCH)
    option(parser, "--num_calib_batches", 20, "training batches that calibrate what LSQ+ has not learned", low=1)
    args = parser.parse_args(argv)

    from modules.search_space.config import SubnetChoiceConfig
    from modules.utils.results import format_table, write_rows

    (space, network), = given_networks(args)
    if not (network or args.subnet_choice):
        raise UserError("neither --network nor --subnet_choice given; expected one")
    choice, rows = network.subnet if network else SubnetChoiceConfig.from_str(args.subnet_choice), []
    source = from_arguments(Source, args)
    classes = make_source(source, space, args.align_sample).record.classes
    uniform = uniform_score(space, choice, len(classes))
    for seed in args.seeds:
        for case in cases(args, uniform):
            if case.config is None and seed != args.seeds[0]:
                continue
            rows.append(measure(case, seed, args, source, space, choice))
            write_rows(Path(args.output_dir) / "table.csv", rows)
            print(format_table(rows[-1:]), flush=True)
    print(format_table(summary(rows)))


if __name__ == "__main__":
    run(main)
