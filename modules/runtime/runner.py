"""Opens int8 models in a runtime and times them in turns; requests come on standard input, replies go to its output.

    python runner.py onnxruntime --threads 1 --cpus 1

It runs on the device's machine and imports nothing of this project: it needs only numpy and the runtime. A request is
a line of JSON (`{"do": "time", "names": ["block"], "rounds": 20}`); `open` is followed by the model's bytes. A reply is
a line of JSON; `{"error": ...}` means that the request failed.
"""
from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import time
from importlib import import_module, metadata
from pathlib import Path

SLICE_MS = 0.3  # other work takes a core for longer than this, or not at all
REFERENCE = "reference"  # the model that every timed one takes turns with
# onnxruntime's setting for x86 without VNNI. There its uint8 x int8 products saturate in pairs and answers are wrong
# (errors of half a logit were seen). The setting gives exact products of uint8 x uint8. Where products are exact
# anyway it must stay away: on an EPYC with both AVX512-VNNI and AVX-VNNI it made networks take 2.1 times as long.
EXACT = ("session.x64quantprecision", "1")
INT8_FLAGS = ("avx2", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")


def open_onnxruntime(content: bytes, threads: int, batch: int):
    """A function that runs the ONNX model `content` once."""
    import onnxruntime

    options = onnxruntime_options(threads)
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()
    feed = {source.name: _random([batch, *source.shape[1:]], "float32")}
    return lambda: session.run(None, feed)


def onnxruntime_options(threads: int):
    """Options of a quiet session of `threads` threads whose products of integers are exact."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    if products_saturate():
        options.add_session_config_entry(*EXACT)
    return options


def products_saturate() -> bool:
    """Whether onnxruntime's sums of two products of uint8 and int8 may saturate here: x86 without VNNI, or unknown."""
    x86 = platform.machine().lower() in ("x86_64", "amd64", "i386", "i686")
    return x86 and not {"avx512_vnni", "avx_vnni"} & {*_processor()[1]}


def open_openvino(content: bytes, threads: int, batch: int):
    """A function that runs the ONNX model `content` once, in one stream, without lower float precision."""
    import openvino

    core = openvino.Core()
    model = core.read_model(content, b"")
    shape = [batch, *(d.get_length() for d in list(model.input(0).partial_shape)[1:])]
    model.reshape({model.input(0): openvino.PartialShape(shape)})
    request = core.compile_model(model, "CPU", {
        "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
    request.set_input_tensor(openvino.Tensor(_random(shape, "float32")))
    return request.infer


def open_litert(content: bytes, threads: int, batch: int):
    """A function that runs the TFLite model `content` once."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=threads)
    (source,) = interpreter.get_input_details()
    if source["shape"][0] != batch:
        interpreter.resize_tensor_input(source["index"], [batch, *source["shape"][1:]])
    interpreter.allocate_tensors()
    interpreter.set_tensor(source["index"], _random([batch, *source["shape"][1:]], source["dtype"]))
    return interpreter.invoke


# How to open a model, the package it needs, and the module that loads the engine.
RUNTIMES = {"onnxruntime": (open_onnxruntime, "onnxruntime", "onnxruntime"),
            "openvino": (open_openvino, "openvino", "openvino"),
            "litert": (open_litert, "ai-edge-litert", "ai_edge_litert.interpreter")}


def _random(shape, dtype):
    import numpy as np

    values = np.random.default_rng(0).standard_normal([int(d) for d in shape], dtype=np.float32)
    return values if np.dtype(dtype) == np.float32 else (values * 32).astype(dtype)


def time_once(run, threads: int) -> float:
    """Time of `run()` in milliseconds.

    If other work took the core meanwhile, only the time on the core counts. This is known for one thread only: several
    threads run on several cores at a time.
    """
    wall, core = time.perf_counter(), time.process_time()
    run()
    wall, core = (time.perf_counter() - wall) * 1e3, (time.process_time() - core) * 1e3
    return core if threads == 1 and wall - core > SLICE_MS else wall


def time_in_turns(runs: dict, names: list[str], rounds: int, threads: int = 1) -> dict[str, dict[str, list[float]]]:
    """Time `runs[name]` for each of `names` and the reference, `rounds` times in turns.

    Each is called twice in a row and the second call is timed: the caches then hold its own data, not that of the
    others. A reference that runs cold after a large model would show the model's size, not the machine's speed.

    Returns:
        For each name its times ("ms") and the reference's beside it ("reference_ms"), in milliseconds.
    """
    def settled(run):
        run()
        return time_once(run, threads)

    times = {name: {"ms": [], "reference_ms": []} for name in names}
    for _ in range(rounds):
        for name in names:
            times[name]["reference_ms"].append(settled(runs[REFERENCE]))
            times[name]["ms"].append(settled(runs[name]))
    return times


def memory_mb() -> float:
    """Peak memory of this process in MB (10^6 bytes)."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def describe(package: str) -> dict:
    """Processor, cores, operating system and version of the runtime."""
    model, flags = _processor()
    return {"cpu": model, "cores": os.cpu_count(), "int8": [f for f in INT8_FLAGS if f in flags],
            "system": f"{platform.system()} {platform.machine()}",
            "runtime": f"{package} {version_of(package)}"}


def _processor() -> tuple[str, list[str]]:
    """Model and flags of the processor, as Linux tells them; no flags elsewhere."""
    try:
        entries = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    except OSError:
        return platform.processor(), []
    fields = {key.strip().lower(): value.strip() for key, _, value in entries}
    model = fields.get("model name") or fields.get("hardware") or platform.processor()
    return model, (fields.get("flags") or fields.get("features") or "").split()


def version_of(package: str) -> str:
    """Version of an installed package; of a build under another name, as onnxruntime-gpu, that of its module."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return str(getattr(import_module(package.replace("-", "_")), "__version__", "unknown"))


class Server:
    """Holds the open models and answers requests."""

    def __init__(self, runtime: str, threads: int, batch: int):
        self.open_model, self.package, self.module = RUNTIMES[runtime]
        self.threads, self.batch, self.runs = threads, batch, {}

    def do_describe(self) -> dict:
        """Processor, cores, operating system and version of the runtime."""
        for module in (self.module, "numpy.random"):  # their memory is not that of a model
            import_module(module)
        return describe(self.package)

    def do_open(self, name: str, content: bytes) -> dict:
        """Open a model, and run it once."""
        run = self.open_model(content, self.threads, self.batch)
        run()
        self.runs[name] = run
        return {}

    def do_close(self, names: list[str]) -> dict:
        """Forget models."""
        for name in names:
            del self.runs[name]
        return {}

    def do_time(self, names: list[str], rounds: int) -> dict:
        """See `time_in_turns`."""
        return time_in_turns(self.runs, names, rounds, self.threads)

    def do_memory(self) -> dict:
        """See `memory_mb`."""
        return {"mb": memory_mb()}


def serve(server: Server, requests, replies) -> None:
    """Answer requests until there are no more."""
    for line in iter(requests.readline, b""):
        request = json.loads(line)
        if "bytes" in request:
            request["content"] = requests.read(request.pop("bytes"))
        try:
            reply = getattr(server, f"do_{request.pop('do')}")(**request)
        except Exception as error:  # runtimes raise classes of their own; the caller must get each error
            reply = {"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"}
        replies.write(json.dumps(reply).encode() + b"\n")
        replies.flush()


def count(text: str) -> int:
    """A number of at least 1."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def main() -> None:
    """Set threads and cores, then serve. Output of a runtime goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runtime", choices=RUNTIMES)
    parser.add_argument("--threads", type=count, default=1)
    parser.add_argument("--batch", type=count, default=1)
    parser.add_argument("--cpus", type=int, nargs="*", default=[], help="cores to run on; default: the last ones")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, args.cpus or sorted(os.sched_getaffinity(0))[-args.threads:])
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(Server(args.runtime, args.threads, args.batch), sys.stdin.buffer, replies)


if __name__ == "__main__":
    main()
