"""Zen-NAS against its baselines at a small budget on CIFAR-10: from the search to INT8 files, accuracy with intervals.

    python benchmarks/zero_shot_cifar.py --dataset_path /path/to/cifar10 --seeds 0 1 2

Each seed searches a structure by each score within --max_params and --max_mflops: the highest Zen score, the most
multiply-accumulates, and a random one. All are trained by supernet_training_configs/cifar10_net.yaml, in fp32, then in
int8, and exported to ONNX and TFLite. All of this is done by the project's scripts, and each command is printed. No
choice sees an image: searches score without images, and the last weights of a training are taken.

Every step is done once. A run that was stopped goes on with the same command. Other --seeds may be given then; the
table holds those of earlier calls too. Writes table.csv, a row for each network, with Wilson's 95 % interval of the
int8 accuracy of the ONNX file on the test images. "Differ" counts test images on which file and network give other
answers. Latencies are medians, on one thread. The summary holds means over the seeds and the distance from the last
score.
"""
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from modules.pipeline.runner import Command, Step, run_steps  # noqa: E402
from modules.utils.cli import make_parser, run  # noqa: E402
from modules.utils.settings import (  # noqa: E402
    PIXELS,
    add_arguments,
    check_settings,
    from_arguments,
    option,
    setting,
)

CONFIG = "supernet_training_configs/cifar10_net.yaml"
STATE = "state.json"
LAST = "latency"  # step


@dataclass(frozen=True)
class Contest:
    """What a continued run keeps: the images, the limits and the trainings of all networks."""

    dataset: str = setting("", "data set, such as digits or CIFAR10", shown="folder")
    dataset_path: str = setting("", "folder with train/ and val/, or train.zip and val.zip")
    classes: int = setting(10, "classes", low=2, high=10**6)
    resolution: int = setting(32, "image size", **PIXELS)
    valid_size: int = setting(5000, "training images that are held out", low=1, unit="images")
    scores: tuple[str, ...] = setting(("Zen", "Flops", "Random"), "scores that choose a structure", many="+")
    max_params: float = setting(1.0, "most parameters", above=0, unit="million")
    max_mflops: float = setting(15.0, "most multiply-accumulates", above=0, unit="million")
    max_layers: int = setting(18, "most layers", low=1)
    evaluations: int = setting(500, "structures that each search scores", low=1)
    population_size: int = setting(64, "structures that are alive", low=1)
    epochs: int = setting(12, "epochs in fp32", low=1, unit="epochs")
    quant_epochs: int = setting(2, "epochs in int8", low=1, unit="epochs")

    def __post_init__(self):
        check_settings(self)


class Round:
    """The networks of one seed, their steps and their rows; all files are in `folder`."""

    def __init__(self, contest: Contest, seed: int, output: Path):
        self.contest, self.seed, self.folder = contest, seed, output / f"seed{seed}"

    def reference(self, score: str) -> str:
        """The value of --network for the structure that `score` chose."""
        return f"{self._search_folder(score) / 'best_structure.txt'}_r{self.contest.resolution}"

    def steps(self) -> list[Step]:
        """From the searches to the measured latencies."""
        parts = []
        for score in self.contest.scores:
            parts += [(f"search by {score}", lambda score=score: [self.search(score)]),
                      (f"training of the structure by {score}", lambda score=score: self.train(score))]
        parts += [("held-out images", self.check), ("files", self.export), (LAST, self.benchmark)]
        return [Step(f"seed {self.seed}: {name}", commands) for name, commands in parts]

    def search(self, score: str) -> Command:
        """The structure of the highest score within the limits."""
        c = self.contest
        return ["zen_nas/search.py", "--space", "cifar", "--zero_shot_score", score, "--max_params", c.max_params,
                "--max_mflops", c.max_mflops, "--max_layers", c.max_layers, "--num_classes", c.classes,
                "--input_image_size", c.resolution, "--max_evaluations", c.evaluations, "--population_size",
                c.population_size, "--seed", self.seed, "--save_dir", self._search_folder(score), "--resume"]

    def train(self, score: str) -> list[Command]:
        """In fp32, then in int8; the warm-up keeps its share of the recipe's epochs, an eighth."""
        c = self.contest
        fp32 = ["train_supernet.py", "--network", self.reference(score), "--config-file", CONFIG, *self._images(),
                "--valid_size", c.valid_size, "--resolutions", c.resolution, "--epochs", c.epochs, "--quant_epochs",
                c.quant_epochs, "--warmup_epochs", c.epochs / 8, "--quant_warmup_epochs", c.quant_epochs / 8, "--seed",
                self.seed, "--models_save_dir", self._trained, "--resume"]
        return [fp32, [*fp32, "--quant_mode"]]

    def check(self) -> list[Command]:
        """Accuracy in int8 on the held-out images."""
        return [["eval_supernet.py", "--network", *self._references(), "--quant_mode", "--valid_size",
                 self.contest.valid_size, "--resume", self._trained, "--output", self.folder / "held_out"]]

    def export(self) -> list[Command]:
        """ONNX and TFLite files, with cards of their accuracy on the test images."""
        common = ["--network", *self._references(), "--resume", self._trained, "--output_dir"]
        return [["onnx_tools/export_onnx.py", *common, self.folder / "onnx"],
                ["tflite_tools/export_tflite.py", *common, self.folder / "tflite"]]

    def benchmark(self) -> list[Command]:
        """Latency of the files, into their cards."""
        return [[f"{engine}_tools/benchmark.py", "--network", *self._references(), "--model_dir", self.folder / engine,
                 "--output", self.folder / f"latency_{engine}.csv"] for engine in ("onnx", "tflite")]

    def rows(self) -> list[dict]:
        """The rows of the table, of finished steps."""
        from modules.search_space.reference import read_network
        from modules.utils.csv_files import read_records

        held_out = {row["supernet"]: row["acc1"]
                    for _, row in read_records(self.folder / "held_out" / "accuracy.csv", "table", ("supernet",))}
        return [self._row(score, network, held_out[str(network.space)]) for score, network in
                ((score, read_network(self.reference(score))) for score in self.contest.scores)]

    def _row(self, score: str, network, held_out: str) -> dict:
        from modules.deploy.cards.card import read_card

        onnx, tflite = (read_card(self.folder / engine / f"{network.name}_quant_int8.{engine}.card.json")
                        for engine in ("onnx", "tflite"))
        fp32, int8 = onnx["accuracy"]["fp32"], onnx["accuracy"]["engine"]
        return {"score": score, "seed": self.seed, "mmacs": f"{onnx['mmacs']:.2f}", "mparams": f"{onnx['mparams']:.3f}",
                "held_out": held_out, "fp32": f"{fp32['top1']:.2f}", "int8": f"{int8['top1']:.2f}",
                "low": f"{int8['low']:.2f}", "high": f"{int8['high']:.2f}", "images": onnx["images"],
                "onnx_differ": onnx["agreement"]["differing"], "tflite_differ": tflite["agreement"]["differing"],
                "onnx_ms": f"{onnx['latency']['ms']:.3f}", "tflite_ms": f"{tflite['latency']['ms']:.3f}",
                "onnx_kb": round(onnx["bytes"] / 1000), "structure": network.space.superspace}

    def _search_folder(self, score: str) -> Path:
        return self.folder / "search" / score.replace(":", "_")

    @property
    def _trained(self) -> Path:
        return self.folder / "trained"

    def _references(self) -> list[str]:
        """Those of all structures, once where two scores chose the same one."""
        from modules.search_space.reference import read_network

        return list({read_network(reference): reference
                     for reference in map(self.reference, self.contest.scores)}.values())

    def _images(self) -> list:
        c = self.contest
        return [*(["--dataset", c.dataset] if c.dataset else []),
                *(["--dataset_path", Path(c.dataset_path).resolve()] if c.dataset_path else [])]


def finished_seeds(state: dict) -> list[int]:
    """The seeds whose last step is done, in this call or an earlier one."""
    return sorted(int(name.split()[1].rstrip(":")) for name in state["seconds"] if name.endswith(f": {LAST}"))


def summary(rows: list[dict]) -> list[dict]:
    """Means over the seeds, and the distance from the last score with its 95 % interval (that of independent shares,
    wider than that of the same images)."""
    named: dict[str, list[dict]] = {}
    for row in rows:
        named.setdefault(row["score"], []).append(row)
    last, lines = list(named)[-1], []
    for score, members in named.items():
        above = mean(members, "int8") - mean(named[last], "int8")
        half = 1.96 * (variance(members) + variance(named[last])) ** 0.5
        lines.append({"score": score, "MMACs": f"{mean(members, 'mmacs'):.2f}",
                      "Mparams": f"{mean(members, 'mparams'):.3f}", "held-out": f"{mean(members, 'held_out'):.2f}",
                      "test, int8": f"{mean(members, 'int8'):.2f}", "seeds": " ".join(row["int8"] for row in members),
                      "ONNX ms": f"{mean(members, 'onnx_ms'):.3f}", "TFLite ms": f"{mean(members, 'tflite_ms'):.3f}",
                      f"above {last}": "" if score == last else f"{above:+.2f} +- {half:.2f}"})
    return lines


def mean(rows: list[dict], column: str) -> float:
    """Of a column of numbers."""
    return sum(float(row[column]) for row in rows) / len(rows)


def variance(rows: list[dict]) -> float:
    """Of the mean int8 accuracy in percent, from the number of images."""
    return sum(float(row["int8"]) * (100 - float(row["int8"])) / row["images"] for row in rows) / len(rows) ** 2


def main(argv=None):
    parser = make_parser(__doc__)
    add_arguments(parser, Contest)
    option(parser, "--seeds", (0,), "seeds, of search and training", kind=int, many="+", low=0)
    option(parser, "--output_dir", "checkpoints/zero_shot_cifar", "folder of all files and of table.csv")
    args = parser.parse_args(argv)

    from modules.utils.results import format_table, write_rows
    from modules.utils.runs import Run

    contest, output = from_arguments(Contest, args), Path(args.output_dir).resolve()
    with Run(output / STATE, resume=True, overwrite=False, option="--output_dir") as opened:
        identity = asdict(contest)
        state = opened.read_state(identity) if opened.continues else {}
        opened.begin()
        for seed in args.seeds:
            run_steps(opened, identity, state, Round(contest, seed, output).steps())
            rows = [row for done in finished_seeds(state) for row in Round(contest, done, output).rows()]
            write_rows(output / "table.csv", rows)
            print(format_table([{name: value for name, value in row.items() if name != "structure"} for row in rows]),
                  flush=True)
    print(format_table(summary(rows)))


if __name__ == "__main__":
    run(main)
