"""Time and memory of the LSQ+ quantisers against the formula composed of elementary operations, in one run.

    python benchmarks/bench_lsq.py --shape 16 96 56 56 --compile --output results/bench_lsq.json

The forms take turns: a change of the machine's speed meets all of them. Times are medians over the rounds; the speed is
the median of each round's ratio to the composed form. Memory comes from the allocator's own record (torch.profiler) of
one forward and backward pass, without the input, the upstream gradient, the output and the input's gradient, which
every form needs:

    held  bytes still allocated between forward and backward beyond the output
    peak  the largest number of bytes allocated at any time beyond the output and the input's gradient

`held` is the cost of each layer in a deep network, `peak` the short need of one layer.
"""
from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.utils.cli import make_parser, run
from modules.utils.files import write_json
from modules.utils.settings import option


def composed(v, scale, beta, low, high, g):
    """The published formula: gradient scaling and straight-through rounding by detached differences."""
    scale = (scale - scale * g).detach() + scale * g
    t = v / scale.abs() if beta is None else (v - ((beta - beta * g).detach() + beta * g)) / scale.abs()
    t = t.clamp(low, high)
    code = (t.round() - t).detach() + t
    return code * scale.abs() if beta is None else code * scale.abs() + beta


def quantiser_forms(args):
    """Pairs (tensor, forms): each form is (name, function of the tensor, scale and offset, form of the passes)."""
    import torch

    from modules.modeling.ops.fake_quant import FORMS, LOOPS, OPERATIONS, quantize_activation, quantize_weight

    x = torch.randn(args.shape).relu_()
    if args.channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    w = torch.randn(args.weight_shape) * 0.05
    activation_g, weight_g = (x[0].numel() * 255) ** -0.5, (w.numel() * 127) ** -0.5
    activation = [("composed", lambda v, s, b: composed(v, s, b, 0, 255, activation_g), OPERATIONS)]
    weight = [("composed", lambda v, s, b: composed(v, s, None, -127, 127, weight_g), OPERATIONS)]
    for form in FORMS if args.compile else (OPERATIONS, LOOPS):
        activation += [(f"float offset, {form}", lambda v, s, b: quantize_activation(v, s, 8, b, True, "float"), form),
                       (f"integer zero point, {form}", lambda v, s, b: quantize_activation(v, s, 8, b, True), form)]
        weight += [(form, lambda v, s, b: quantize_weight(v, s, 8, True), form)]
    activation += [("relu6", lambda v, s, b: torch.nn.functional.relu6(v), OPERATIONS)]
    forms = {"activation": (x, 0.02, activation), "weight": (w, 0.001, weight)}
    return forms | ({"norm": (torch.randn_like(x), 0.02, norm_forms(args.shape[1]))} if args.channels_last else {})


def norm_forms(channels):
    """Batch norm and ReLU in training, without and with the quantiser behind them: by torch, and in one pass."""
    from modules.modeling.ops.batch_norm import DynamicBatchNorm2d, plain
    from modules.modeling.ops.fake_quant import LOOPS, OPERATIONS, quantize_activation

    norm = DynamicBatchNorm2d(channels).train()

    def one_pass(v):
        return norm.deferred(v).activated("relu")
    return [("batch norm, ReLU", lambda v, s, b: norm.apart(v).relu_(), OPERATIONS),
            ("the same in one pass", lambda v, s, b: plain(one_pass(v)), LOOPS),
            ("with quantiser", lambda v, s, b: quantize_activation(norm.apart(v).relu_(), s, 8, b, True), LOOPS),
            ("the same in one pass", lambda v, s, b: one_pass(v).quantized(s, b, 8, "integer"), LOOPS)]


def make_step(form, tensor, scale):
    """Two functions: forward, and backward from the output of forward."""
    import torch

    from modules.modeling.ops.fake_quant import use_form

    _, function, passes = form
    v = tensor.detach().requires_grad_()
    leaves = [v, torch.tensor([scale], requires_grad=True), torch.zeros(1, requires_grad=True)]
    upstream = torch.randn_like(tensor)

    def forward():
        use_form(passes)
        for leaf in leaves:
            leaf.grad = None
        return function(*leaves)

    def backward(out):
        out.backward(upstream)
    return forward, backward


def time_forms(steps, rounds):
    """Milliseconds of forward and of forward + backward: two lists per form, over the rounds in turns."""
    forward_times, total_times = [[] for _ in steps], [[] for _ in steps]
    for i in range(rounds + 2):
        for (forward, backward), first, both in zip(steps, forward_times, total_times, strict=True):
            start = time.perf_counter()
            out = forward()
            middle = time.perf_counter()
            backward(out)
            end = time.perf_counter()
            del out
            if i >= 2:  # the first rounds compile and warm up
                first.append((middle - start) * 1e3)
                both.append((end - start) * 1e3)
    return list(zip(forward_times, total_times, strict=True))


def measure_memory(forward, backward, size):
    """Bytes held between the passes and at the peak; `size` is that of the output and of the input's gradient."""
    import torch

    forward()  # drops the gradients of the timed rounds, which would count as freed
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        out = forward()
        with torch.profiler.record_function("between"):
            pass
        backward(out)
    with tempfile.TemporaryDirectory() as folder:
        profile.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(f"{folder}/trace.json").read_text())["traceEvents"]
    border = next(event["ts"] for event in events if event.get("name") == "between")
    now = held = forward_peak = backward_peak = 0
    for event in sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"]):
        now += event["args"]["Bytes"]
        if event["ts"] < border:
            held, forward_peak = now, max(forward_peak, now)
        else:
            backward_peak = max(backward_peak, now)
    return held - size, max(forward_peak - size, backward_peak - 2 * size)


def measure(args):
    """Rows (tensor, form, forward ms, forward + backward ms, held bytes, peak bytes)."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for name, (tensor, scale, forms) in quantiser_forms(args).items():
        steps = [make_step(form, tensor, scale) for form in forms]
        times = time_forms(steps, args.rounds)
        size = tensor.numel() * tensor.element_size()
        for form, step, (forward, both) in zip(forms, steps, times, strict=True):
            held, peak = measure_memory(*step, size)
            speed = statistics.median(a / b for a, b in zip(times[0][1], both, strict=True))
            rows.append({"tensor": name, "form": form[0], "forward_ms": statistics.median(forward),
                         "forward_backward_ms": statistics.median(both), "speed": speed,
                         "held_mib": held / 2**20, "peak_mib": peak / 2**20})
    return rows


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    option(parser, "--shape", (16, 96, 56, 56), "shape of the activation, N C H W", many=4, low=1)
    option(parser, "--weight_shape", (256, 256, 3, 3), "shape of the weight", many=4, low=1)
    option(parser, "--channels_last", False, "memory layout of the activation")
    option(parser, "--compile", False, "add the compiled forms (compilation is not timed)")
    option(parser, "--rounds", 15, "turns, of which the median counts", low=1)
    option(parser, "--output", "", "JSON file for the results")
    args = parser.parse_args(argv)
    rows = measure(args)
    layout = "channels last" if args.channels_last else "contiguous"
    print(f"activation {'x'.join(map(str, args.shape))} {layout}, weight {'x'.join(map(str, args.weight_shape))}, "
          f"one thread, medians of {args.rounds} rounds\n")
    print("| tensor | form | forward ms | forward + backward ms | speed | held MiB | peak MiB |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        print("| {tensor} | {form} | {forward_ms:.2f} | {forward_backward_ms:.2f} | {speed:.2f} | {held_mib:.1f} "
              "| {peak_mib:.1f} |".format(**row))
    if args.output:
        from modules.runtime.torch_timer import conditions

        write_json(args.output, {"machine": conditions(), "arguments": vars(args), "rows": rows})


if __name__ == "__main__":
    run(main)
