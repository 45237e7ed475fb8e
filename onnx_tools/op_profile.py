"""Time of ONNX files by operator under onnxruntime: stacked bars and a table.

    python onnx_tools/export_onnx.py --skip_weights && python onnx_tools/op_profile.py

Each subnet of the input has one bar for its fp32 file, one for its int8 file, and one for onnxruntime's static
quantisation, if benchmark.py --baselines static has made that file.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.deploy.arguments import add_subnets_argument, given_subnets
from modules.utils.cli import make_parser, run
from modules.utils.settings import THREADS, option


def main(argv=None):
    parser = make_parser(__doc__)
    add_subnets_argument(parser, "onnx_tools")
    option(parser, "--model_dir", "checkpoints/models/onnx_model", "folder of the files of export_onnx.py")
    option(parser, "--output", "onnx_tools/op_profile.csv", "csv file; the figure goes beside it, as PNG")
    THREADS.add_to(parser, "--threads")
    option(parser, "--num_runs", 50, "timed runs", low=1)
    option(parser, "--warmup_runs", 10, "runs before", low=0)
    args = parser.parse_args(argv)

    from modules.deploy.naming import model_path
    from modules.deploy.to_onnx.op_profile import plot_profiles, profile_operators
    from modules.search_space.published import published_name
    from modules.search_space.reference import reference_to
    from modules.utils.figures import figure_of
    from modules.utils.results import format_table, write_rows

    figure, profiles, rows = figure_of(args.output), {}, []
    for space, choice in given_subnets(args):
        fp32, int8 = (model_path(args.model_dir, space, choice, quantized) for quantized in (False, True))
        static = fp32.with_name(f"{fp32.stem}_static_int8.onnx")
        for kind, path in {"fp32": fp32, "int8": int8, **({"static": static} if static.is_file() else {})}.items():
            name = f"{published_name(space, choice) or fp32.stem} {kind}"
            profiles[name] = profile_operators(path, args.threads, args.num_runs, args.warmup_runs)
            rows += [{"name": reference_to(space, choice), "file": kind, "operator": e.operator, "nodes": e.nodes,
                      "ms": f"{e.ms:.4f}"} for e in profiles[name]]
            print(name)
            print(format_table([{"operator": e.operator, "nodes": e.nodes, "ms": f"{e.ms:.3f}"}
                                for e in profiles[name]]), flush=True)
    write_rows(args.output, rows)
    plot_profiles(profiles, figure)


if __name__ == "__main__":
    run(main)
