"""Command line options that the scripts of all formats of model files share, and the export that they ask for."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import MISSING
from pathlib import Path
from typing import TYPE_CHECKING

from modules.search_space.config import SubnetChoiceConfig, SupernetConfig
from modules.search_space.reference import NETWORK, Network, read_network
from modules.search_space.subnet_list import read_networks
from modules.training.arguments import ALIGNED, SUPERNETS, Evaluation, make_evaluator
from modules.utils.cli import given_options
from modules.utils.errors import UserError
from modules.utils.files import REPOSITORY
from modules.utils.settings import BATCH, THREADS, add_arguments, from_arguments, option

if TYPE_CHECKING:
    from modules.deploy.export import Format
    from modules.runtime.session import Session


def add_subnets_argument(parser, folder: str) -> None:
    """`--network`, or the networks in `folder`/input.csv."""
    NETWORK.add_to(parser, "--network", many="+", default=(), kind=str,
                   meaning=f"{NETWORK.meaning}; instead of --input")
    option(parser, "--input", str(REPOSITORY / folder / "input.csv"),
           "file of lines superspace,choice,subnet, or of networks")


def given_subnets(args) -> list[tuple[SupernetConfig, SubnetChoiceConfig]]:
    """The networks that the options above name."""
    return [(network.space, network.subnet) for network in _given_networks(args)]


def _given_networks(args) -> list[Network]:
    return [*map(read_network, args.network)] or read_networks(args.input)


def refuse_beside_files(args, parser, names: Iterable[str]) -> None:
    """UserError for an option of `names`, or one of networks, that is given with `--model_path`, where it has no
    effect; also for a file that is given twice."""
    given = given_options(args, parser, ("network", "input", "model_dir", "output", "baselines", *names))
    if args.model_path and given:
        raise UserError(f"--{given[0]} with --model_path, which times the given files alone and writes no csv; "
                        "expected one of them")
    again = [path for i, path in enumerate(args.model_path) if path in args.model_path[:i]]
    if again:
        raise UserError(f"--model_path names {again[0]!r} twice; expected different files")


def given_checkpoint(args, space: SupernetConfig, int8: bool) -> Path:
    """The checkpoint of a supernet in `--resume`: in the folder that one of the given networks names, if one does."""
    from modules.modeling.restore import find_checkpoint

    names = {network.space: network.supernet for network in _given_networks(args)}
    return find_checkpoint(args.resume, space, int8, args.align_sample, names.get(space, ""))


def add_export_arguments(parser, folder: str, output: str) -> None:
    """The subnets, the folder of their checkpoints, the folder of the files, and the images of the check."""
    add_subnets_argument(parser, folder)
    option(parser, "--output_dir", output, "folder of the files")
    ALIGNED.add_to(parser, "--align_sample")
    option(parser, "--resume", SUPERNETS, "folder that holds <superspace>-<choice>-align0/; a file, which is exported "
           "in its own precision; or package (public weights of efficientnet_lite0 ... lite2)")
    option(parser, "--quant_mode", False, "export the int8 files only")
    option(parser, "--skip_weights", False, "random weights, no checkpoint, no data")
    option(parser, "--weight_bits", 8, "bits of these random weights in int8 files; trained ones have their own", low=2,
           high=8)
    option(parser, "--num_classes", 1000, "classes of networks with random weights; trained ones have their own", low=1,
           high=10**6)
    add_arguments(parser, Evaluation)


def export_given(args, form: Format) -> None:
    """Export the subnets that the options above name as files of format `form`; prints a line for each file."""
    from modules.deploy.export import export_subnets
    from modules.modeling.restore import holds_int8, is_one_checkpoint

    def evaluator(space, int8):
        return make_evaluator(from_arguments(Evaluation, args), given_checkpoint(args, space, int8), space,
                              quant_mode=int8)

    if args.weight_bits != 8 and not args.skip_weights:
        raise UserError(f"--weight_bits {args.weight_bits} without --skip_weights; trained weights have the bits of "
                        "their training (--quant_weight_bits there)")
    if args.num_classes != 1000 and not args.skip_weights:
        raise UserError(f"--num_classes {args.num_classes} without --skip_weights; a trained network has the classes "
                        "of its training")
    precisions = (True,) if args.quant_mode else (False, True)
    if is_one_checkpoint(args.resume) and not (args.quant_mode or args.skip_weights):
        precisions = (holds_int8(args.resume),)
    for exported in export_subnets(given_subnets(args), args.output_dir, form, precisions,
                                   None if args.skip_weights else evaluator, args.weight_bits, args.num_classes):
        print(exported, flush=True)


def add_predict_arguments(parser, threads: str) -> None:
    """Images and the model that classifies them; `threads` is the flag for the number of threads."""
    option(parser, "images", MISSING, "image files", kind=str, many="+", metavar="IMAGE")
    option(parser, "--model_path", MISSING, "model file", kind=str)
    option(parser, "--top", 5, "classes to name", low=1)
    THREADS.add_to(parser, threads, dest="threads")


def predict_given(args) -> None:
    """Print the likeliest classes of the images that the options above name."""
    from modules.deploy.check.classify import print_guesses
    from modules.runtime.engines import open_model

    session = open_model(args.model_path, args.threads)
    print_guesses(session, session.metadata, args.images, args.top)


def add_accuracy_arguments(parser, threads: str) -> None:
    """The models, and the data set that they are evaluated on; `threads` is the flag for the number of threads."""
    option(parser, "--model_path", MISSING, "model files; further ones are compared with the first", kind=str, many="+")
    option(parser, "--dataset", "", "data set: digits, folder, CIFAR10 ...", shown="that in the file")
    option(parser, "--dataset_path", "", "folder with train/ and val/, or of a data set by name",
           aliases=("--dataset_dir",))
    option(parser, "--batch_size", 50, "images that are loaded at a time", **BATCH)
    THREADS.add_to(parser, threads, dest="threads")


def evaluate_given(args, check: Callable[[Session, str], None] = lambda session, path: None) -> None:
    """Print the accuracy of each model that the options above name, and of further ones the paired test with the first;
    `check(session, path)` may refuse a model."""
    from modules.deploy.check.accuracy import dataset_of, session_accuracy
    from modules.deploy.check.paired import mcnemar
    from modules.runtime.engines import open_model

    first = None
    for path in args.model_path:
        session = open_model(path, args.threads)
        check(session, path)
        accuracy, right = session_accuracy(session, session.metadata, args.dataset, args.dataset_path, args.batch_size)
        print(f"{path}: acc1 {accuracy} of {accuracy.images} images", flush=True)
        name = dataset_of(session.metadata, args.dataset, args.dataset_path)
        if first is None:
            first, of_first = right, name
        elif name != of_first:
            print(f"    against the first: not compared, {name or 'another data set'} is not {of_first}", flush=True)
        elif len(first) != len(right):
            raise UserError(f"{path!r} is evaluated on {len(right)} images, {args.model_path[0]!r} on {len(first)}; "
                            "give both the same --dataset_path")
        else:
            print(f"    against the first: {mcnemar(right, first)}", flush=True)


def add_timing_arguments(parser, form: str, baselines: Iterable[str]) -> None:
    """The files to time, those of networks in the format `form` ("onnx" or "tflite") or others, and the csv."""
    add_subnets_argument(parser, f"{form}_tools")
    option(parser, "--model_path", (), "model files to time instead", kind=str, many="+")
    option(parser, "--model_dir", f"checkpoints/models/{form}_model", f"folder of the files of export_{form}.py")
    option(parser, "--output", f"{form}_tools/latency.csv", "csv file; lines are appended")
    option(parser, "--baselines", (), "other ways to int8 in the same turns", kind=str, many="*", choices=baselines)
