"""Time fp32 and int8 ONNX files of the same subnets under onnxruntime, in turns, and append to latency.csv.

    python onnx_tools/export_onnx.py --skip_weights && python onnx_tools/benchmark.py

Figures are medians; the spread is half the distance between the 10th and 90th percentile. One thread by default.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.utils.cli import make_parser, run


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--input", default="onnx_tools/input.csv", help="lines superspace,choice,subnet")
    parser.add_argument("--model_dir", default="checkpoints/models/onnx_model", help="where export_onnx.py wrote to")
    parser.add_argument("--output", default="onnx_tools/latency.csv")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--num_runs", type=int, default=100)
    parser.add_argument("--warmup_runs", type=int, default=20)
    args = parser.parse_args()

    import onnxruntime

    from modules.deploy.export import model_path
    from modules.deploy.input_csv import read_subnets
    from modules.deploy.ort import open_session, summarize, time_interleaved
    from modules.utils.files import machine
    from modules.utils.results import append_row

    for space, choice in read_subnets(args.input):
        sessions = {name: open_session(model_path(args.model_dir, space, choice, name == "int8"), args.threads)
                    for name in ("fp32", "int8")}
        times = time_interleaved(sessions, args.num_runs, args.warmup_runs)
        (fp32, fp32_spread), (int8, int8_spread) = summarize(times["fp32"]), summarize(times["int8"])
        print(f"{space}-{choice}: fp32 {fp32:.2f} ms, int8 {int8:.2f} ms, {fp32 / int8:.2f}x", flush=True)
        append_row(args.output, {
            "name": f"{space}-{choice}", "fp32_ms": f"{fp32:.3f}", "int8_ms": f"{int8:.3f}",
            "speedup": f"{fp32 / int8:.2f}", "fp32_spread_ms": f"{fp32_spread:.3f}",
            "int8_spread_ms": f"{int8_spread:.3f}", "threads": args.threads, "cpu": machine()["cpu"],
            "onnxruntime": onnxruntime.__version__})


if __name__ == "__main__":
    run(main)
