"""Does the Q-T score rank search spaces? Kendall's tau between it and the accuracy of the spaces' best subnets.

    OMP_NUM_THREADS=1 python benchmarks/qt_ranking.py --lut_path checkpoints/tables --latency_constraint 0.25 \\
        --choices 000-000 111-000 666-000 610-201

All supernets are trained alike, fp32 then INT8. Random search looks for the best subnets within the limit, on held-out
training images, with as many evaluations for each space. The accuracy of a space is the mean of its best three on the
test images. The same spaces are also ranked by parts and variants of the score, by the accuracy of the largest subnet,
and by means over the feasible subnets: multiply-accumulates, parameters, zero-shot scores. The score and Zen are also
added up, each in standard deviations over the spaces. Intervals are of 2,000 bootstrap samples of the spaces. A killed
run goes on where it was. Writes qt_ranking.csv, qt_ranking_tau.csv and qt_ranking.png. With an empty --lut_path it
trains and evaluates only. With --students it also ranks by the INT8 block students: those of each feasible subnet run
one behind the other, and the loss of the last one counts.
"""
import sys
from dataclasses import MISSING, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from scipy.stats import kendalltau, zscore

from modules.block_kd.lut.job import make_job
from modules.block_kd.lut.options import TableOptions
from modules.block_kd.lut.speed import limit_of_sums
from modules.block_kd.lut.tables import how_made, load_tables
from modules.block_kd.space_search.scorer import Scoring, make_scorer
from modules.block_kd.space_search.spaces import Spaces
from modules.block_kd.student.composition import composed_losses, make_chain
from modules.block_kd.teacher import load_teacher
from modules.latency import get_platform
from modules.modeling.net_spec import resolve
from modules.modeling.restore import checkpoint_folder
from modules.search.footprint import net_footprint
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.subnet_space import SubnetSpace
from modules.search_space.superspace import get_superspace
from modules.training.config import TrainConfig, load_yaml
from modules.training.subnet_evaluator import SubnetEvaluator
from modules.training.trainer import train
from modules.utils.cli import make_parser, run
from modules.utils.csv_files import read_records
from modules.utils.errors import UserError
from modules.utils.figures import new_figure, save_figure
from modules.utils.files import REPOSITORY
from modules.utils.results import append_row, format_table, write_rows
from modules.utils.settings import PIXELS, SEED, option
from modules.zero_shot.plain_view import plain_view
from modules.zero_shot.scoring import scores, seed_of

DRAWS = 20_000      # most random subnets among which those within the limit are looked for
BEST = 3            # subnets whose mean accuracy is a space's
ZERO_SHOT = ("Zen", "NASWOT")
SCORED = 12         # feasible subnets whose zero-shot scores are averaged
BOOTSTRAPS = 2000
SCORE = "Q-T score"
DEVICE = torch.device("cpu")


def main(argv=None):
    parser = make_parser(__doc__)
    option(parser, "--superspace", "cifarw_short", "superspace")
    option(parser, "--choices", (), "spaces; empty: --spaces random ones that reach the limit, at even quantiles of "
           "the score", kind=str, many="*")
    option(parser, "--lut_path", "", "folder of block tables", kind=str)
    option(parser, "--zero_shot_lut_path", "", "folder of tables of a training-free score, as of search_block_kd.py; "
           "the spaces are also ranked by both kinds of losses together", kind=str, shown="none")
    option(parser, "--students", "", "folder of INT8 block students, /<superspace>/<stage>_<block>/lsq.pth", kind=str,
           shown="none, no composed losses")
    option(parser, "--teacher_checkpoint_path", "", "their INT8 teacher", kind=str)
    option(parser, "--latency_constraint", MISSING, "latency limit, on the superspace's platform", kind=float, above=0,
           unit="ms")
    option(parser, "--spaces", 12, "spaces that are drawn without --choices", low=3)
    option(parser, "--candidates", 2000, "random spaces among which they are", low=3)
    option(parser, "--subnets", 24, "subnets evaluated in each space", low=BEST)
    option(parser, "--config-file", str(REPOSITORY / "supernet_training_configs" / "pipeline.yaml"),
           "yaml file of the training")
    option(parser, "--dataset", "cluttered_digits", "data set, as of train_supernet.py")
    option(parser, "--dataset_path", "", "its folder")
    option(parser, "--valid_size", 1000, "training images held out", low=1, unit="images")
    option(parser, "--resolutions", (24,), "input sizes", many="+", **PIXELS)
    option(parser, "--epochs", 12, "fp32 epochs", low=1)
    option(parser, "--label_epochs", 8, "of them those in which all subnets learn from the labels", low=0)
    option(parser, "--quant_epochs", 1, "INT8 epochs", low=1)
    option(parser, "--amp", "none", "low precision of the training, as of train_supernet.py")
    SEED.add_to(parser, "--seed")
    option(parser, "--models_save_dir", "checkpoints/qt_ranking", "folder of checkpoints and accuracies")
    option(parser, "--output", "benchmarks/figures", "folder of tables and figure")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)

    if not args.choices and not args.lut_path:
        raise UserError("--choices and --lut_path are empty; give the spaces, or tables to choose them with")
    if bool(args.students) != bool(args.teacher_checkpoint_path):
        raise UserError("--students and --teacher_checkpoint_path belong together; give both or none")
    if args.students and not args.lut_path:
        raise UserError("--students without --lut_path ranks nothing; give the tables too")
    platform = get_superspace(args.superspace).default_platform
    if args.lut_path:  # the tables may have been timed on a slower day, and sums of their rows are longer than networks
        platform, spaces = how_made(args.lut_path, args.superspace)[0], Spaces(args.superspace)
        tables = load_tables(args.lut_path, args.superspace, args.resolutions, spaces.seeds(), platform)
        args.table_limit = limit_of_sums(args.latency_constraint, spaces.random_nets(max(args.resolutions), 10),
                                         get_platform(platform), tables)
        print(f"limit as a sum of the tables' rows: {args.table_limit:g} ms")
    choices = args.choices or choose(args, platform)
    spaces = [SupernetConfig.from_choice(args.superspace, choice) for choice in choices]
    students = open_students(spaces, platform, args) if args.students else None
    results = [evaluate_space(space, get_platform(platform), args) for space in spaces]
    if args.lut_path:
        report(rank(spaces, results, platform, students, args), args)


def choose(args, platform):
    """Spaces at even quantiles of the score, from random ones that reach the limit."""
    scorer = scorer_of(args, platform)
    rng, spaces = np.random.default_rng(args.seed), Spaces(args.superspace)
    drawn = {spaces.random(rng) for _ in range(args.candidates)}
    scored = sorted((scorer(c).score, c.choice) for c in drawn)
    scored = [choice for score, choice in scored if score > 0.01]  # the others have no subnet within the limit
    if len(scored) < args.spaces:
        raise UserError(f"{len(scored)} of {args.candidates} random spaces are within the limit; allowed: up to as "
                        f"many --spaces, not {args.spaces}, or more --candidates")
    return [scored[i] for i in np.linspace(0, len(scored) - 1, args.spaces).round().astype(int)]


# -- accuracies ---------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Result:
    """The largest subnet's accuracy, that of the best within the limit (test images, percent), and all evaluated."""

    largest: float
    best: float
    feasible: tuple[SubnetChoiceConfig, ...]


def evaluate_space(config, platform, args):
    """Train the supernet of `config` and search in it."""
    space = SubnetSpace(config, args.resolutions)
    feasible = draw_feasible(config, space, platform, args)
    path = Path(args.models_save_dir) / f"accuracies_{config}.csv"
    known = {(row["part"], row["enc"]): float(row["acc1"])
             for _, row in read_records(path, "accuracies", ("part", "enc", "acc1"))} if path.exists() else {}
    evaluator = open_evaluator(config, args)

    def accuracy(part, choice):
        if (part, str(choice)) not in known:
            known[part, str(choice)] = top1 = evaluator.accuracy(choice, test=part == "test").top1
            append_row(path, {"part": part, "enc": str(choice), "acc1": f"{top1:.4f}"})
        return known[part, str(choice)]

    held_out = {choice: accuracy("held out", choice) for choice in feasible}
    best = sorted(held_out, key=held_out.get)[-BEST:]
    result = Result(accuracy("test", space.extreme(max)), np.mean([accuracy("test", choice) for choice in best]),
                    tuple(feasible))
    print(f"{config}: largest {result.largest:.2f}, best within {args.latency_constraint:g} ms {result.best:.2f} %",
          flush=True)
    return result


def open_evaluator(config, args):
    """The evaluator of the trained INT8 supernet; trains it first, if need be. UserError if it was trained with other
    settings."""
    settings = load_yaml(args.config_file) | {
        name: getattr(args, name) for name in ("dataset", "dataset_path", "valid_size", "resolutions", "epochs",
                                               "label_epochs", "quant_epochs", "amp", "models_save_dir", "seed")}
    training = TrainConfig(**settings | {"placement": "engine", "valid_freq": args.epochs})
    checkpoint = checkpoint_folder(args.models_save_dir, config, False) / "lsq.pth"
    train(training, config, resume=True)
    train(training.for_quantization(), config, quant_mode=True, resume=True)
    return SubnetEvaluator.open(checkpoint, config, quant_mode=True, valid_size=None, calibration_batches=10,
                                batch_size=100)


def draw_feasible(config, space, platform, args):
    """Random subnets within the limit, without repetitions; UserError if there are fewer than `BEST`."""
    rng, found = np.random.default_rng(args.seed), {}
    for _ in range(DRAWS):
        choice = space.sample(rng)
        if platform.predict_subnet(resolve(config, choice, 10)) <= args.latency_constraint:
            found[choice] = None
        if len(found) == args.subnets:
            break
    if len(found) < BEST:
        raise UserError(f"space {config}: {len(found)} of {DRAWS} random subnets are within {args.latency_constraint:g}"
                        " ms; leave it out, or give a higher --latency_constraint")
    return list(found)


# -- scores -------------------------------------------------------------------------------------------------------

def scorer_of(args, platform, **settings):
    """The exact scorer under the limit."""
    return make_scorer(Scoring(superspace=args.superspace, platform=platform, lut_path=args.lut_path,
                               limits=(args.table_limit,), t=0.08, a=0.01, seed=args.seed,
                               resolutions=args.resolutions,
                               **{"estimator": "exact", "width_coupling": "independent", "other_stages": "smallest"}
                               | settings))


def rank(spaces, results, platform, students, args):
    """A row of figures for each space."""
    plain = scorer_of(args, platform)
    chained = scorer_of(args, platform, width_coupling="chained")
    sampled = scorer_of(args, platform, other_stages="sampled")
    by_stage = scorer_of(args, platform, stage_losses="relative")
    both = scorer_of(args, platform, zero_shot_lut_path=args.zero_shot_lut_path) if args.zero_shot_lut_path else None
    composed = compose(spaces, [result.feasible for result in results], *students, args) if students else None
    rows = []
    for i, (config, result) in enumerate(zip(spaces, results, strict=True)):
        specs = [resolve(config, choice, 10) for choice in result.feasible]
        sizes = [net_footprint(spec) for spec in specs]
        quality = plain(config).per_limit[0]
        row = {"space": config.choice, "best": result.best, "largest": result.largest, SCORE: quality.score,
               "share within the limit": quality.feasible, "best-50 loss": -quality.top_loss,
               "losses by stage mean": by_stage(config).score, "chained widths": chained(config).score,
               "other stages sampled": sampled(config).score, "MACs": np.mean([s.mflops for s in sizes]),
               "parameters": np.mean([s.params for s in sizes])}
        if both:
            row["with zero-shot tables"] = both(config).score
        for proxy in ZERO_SHOT:
            row[proxy] = np.mean([scores(plain_view(spec), proxy, 16, 1, seed_of(str(number), args.seed))[0]
                                  for number, spec in enumerate(specs[:SCORED])])
        if composed:
            row["composed students"] = -np.mean(composed[i])
            row[f"composed students, best {BEST}"] = -np.mean(sorted(composed[i])[:BEST])
        rows.append(row)
    sums = sum(zscore([row[name] for row in rows]) for name in (SCORE, "Zen"))
    for row, value in zip(rows, sums, strict=True):
        row[f"{SCORE} and Zen, standardised"] = value
    return rows


def open_students(spaces, platform, args):
    """The students of `spaces` with their settings and data, not read yet, and their teacher. UserError if a file is
    missing."""
    needed = {f"{stage.name}_{block}" for config in spaces
              for stage, block in zip(config.space.searched, config.blocks, strict=True)}
    teacher = load_teacher(None, args.teacher_checkpoint_path, quant=True)
    return make_job(TableOptions(superspace=args.superspace, platform=platform, checkpoint_path=args.students,
                                 stage_list=tuple(sorted(needed)), hw_list=tuple(args.resolutions), num_calib_batches=5,
                                 num_workers=0, manual_seed=args.seed), teacher, DEVICE), teacher


def compose(spaces, feasible, job, teacher, args):
    """For each space the losses of the composed students of its `feasible` subnets, on the images that the students
    held out."""
    size = max(args.resolutions) * teacher.enlarge
    students = {key: read() for key, read in job.students.items()}
    chains = [make_chain(students, config, subnet)
              for config, subnets in zip(spaces, feasible, strict=True) for subnet in subnets]
    losses = iter(composed_losses(chains, teacher, job.calibration_images(size), job.validation_batches(size),
                                  job.config.loss_fn, DEVICE))
    return [[next(losses) for _ in subnets] for subnets in feasible]


def taus(rows, seed):
    """Kendall's tau of every column with the best accuracy, and its 95 % bootstrap interval."""
    rng, best = np.random.default_rng(seed), np.array([row["best"] for row in rows])
    samples = rng.integers(len(rows), size=(BOOTSTRAPS, len(rows)))
    for name in list(rows[0])[2:]:
        values = np.array([row[name] for row in rows])
        drawn = np.array([kendalltau(values[s], best[s]).statistic for s in samples])
        low, high = np.nanpercentile(drawn, (2.5, 97.5))
        yield {"ranked by": name, "tau": kendalltau(values, best).statistic, "low": low, "high": high}


def report(rows, args):
    """Tables and figure."""
    folder, found = Path(args.output), list(taus(rows, args.seed))
    rows = sorted(rows, key=lambda row: -row["best"])
    tables = {"qt_ranking": rows, "qt_ranking_tau": sorted(found, key=lambda row: -row["tau"])}
    for name, table in tables.items():
        table = [{k: v if isinstance(v, str) else f"{v:.4g}" for k, v in row.items()} for row in table]
        write_rows(folder / f"{name}.csv", table)
        print(format_table(table))
    figure = new_figure(9, 4)
    for axes, name in zip(figure.subplots(1, 2), (SCORE, "MACs"), strict=True):
        axes.plot([row[name] for row in rows], [row["best"] for row in rows], "o")
        for row in rows:
            axes.annotate(row["space"], (row[name], row["best"]), fontsize=6, xytext=(3, 3),
                          textcoords="offset points")
        tau = next(row["tau"] for row in found if row["ranked by"] == name)
        axes.set(xlabel=name, ylabel=f"INT8 top-1 of the best within {args.latency_constraint:g} ms, %",
                 title=f"Kendall tau {tau:.2f}")
        axes.grid(alpha=0.3)
    save_figure(figure, folder / "qt_ranking.png")


if __name__ == "__main__":
    run(main)
