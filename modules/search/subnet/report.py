"""What the user sees of a search: the name of its folder, its best subnets, and the commands to run next."""
from __future__ import annotations

import shlex
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

from modules.search.subnet.measure import Ranking
from modules.search.subnet.record import Evaluated
from modules.search.subnet.settings import SearchSettings
from modules.search.subnet.window import Window


def folder_name(settings: SearchSettings, platforms: Sequence[str], use_testset: bool) -> str:
    """The folder's name says what is searched for."""
    stem = "+".join(f"{limit:g}" for limit in settings.limits) + "ms" * bool(settings.limits)
    stem = "_".join(filter(None, (stem, settings.size_limits.label)))
    stem += f"_{'+'.join(platforms).replace(':', '-').replace('/', '-')}" * (len(platforms) > 1)
    stem += f"_{settings.confidence:g}" * (settings.confidence > 0)
    ways = (("_testset", use_testset), ("_random", settings.method == "random"),
            ("_pareto", settings.survival == "pareto"), (f"_{settings.predictor}", settings.predictor != "none"),
            (f"_{settings.fitness}", settings.fitness),
            (f"_prefilter_{settings.prefilter}_{settings.prefilter_keep:g}", settings.prefilter))
    return stem + "".join(suffix for suffix, used in ways if used).replace(":", "-")


def print_best(ranking: Ranking, best: Mapping[Window, Evaluated], folder: Path) -> None:
    """The best subnet of each window, if one keeps its limits."""
    for window, subnets in ranking.items():
        if window not in best:
            print(f"none of {len(subnets)} measured subnets is within {window.words}", file=sys.stderr)
            continue
        interval = ", ".join(f"{value:.2f}" for value in best[window].accuracy.interval)
        print(f"best within {window.words}: {best[window]} [{interval}]")
    print(f"files in {folder}")


def print_next(args: Namespace, scored: int, bits: int, best: Mapping[Window, Evaluated], folder: Path) -> None:
    """The commands to run next. `args`: of search_subnet.py; `scored`: number of classes where a training-free score
    was the fitness, else 0; `bits`: of the int8 weights, the supernet's or, for a score, the platform's."""
    found = ["--input", str(folder / "export.csv")]
    trained_bits = ["--quant_weight_bits", str(bits)] if bits < 8 else []
    if scored:
        random = [*(["--weight_bits", str(bits)] if bits < 8 else []), "--num_classes", str(scored)]
        print("next:", shlex.join(["python", "onnx_tools/export_onnx.py", *found, "--skip_weights", *random]))
        for choice in dict.fromkeys(subnet.proposal.choice for subnet in best.values()):
            print("or train it alone, with a recipe of supernet_training_configs:", shlex.join([
                "python", "train_supernet.py", "--superspace", args.superspace, "--supernet_choice",
                args.supernet_choice, "--subnet_choice", str(choice), "--resolutions", str(choice.resolution),
                "--config-file", "RECIPE.yaml", "--dataset_path", "IMAGES"]),
                *([f"(then with --quant_mode {' '.join(trained_bits)})"] if trained_bits else []))
        return
    same = [*(["--align_sample"] if args.align_sample else []),
            *(text for name in ("dataset", "dataset_path") if (value := getattr(args, name))
              for text in (f"--{name}", value))]
    print("next:", shlex.join(["python", "onnx_tools/export_onnx.py", *found, "--resume", args.checkpoint_path,
                               "--quant_mode", *same]))
    path = Path(args.checkpoint_path)
    fp32 = path.with_name("checkpoint.pth") if path.name == "lsq.pth" else path
    print("or first, with a recipe of supernet_training_configs:", shlex.join([
        "python", "train_subnet.py", *found, "--checkpoint_path", str(fp32), *same,
        *trained_bits, "--config-file", "RECIPE.yaml"]))
