"""Logits and gradients of supernets on another device against those on the CPU, for every block type.

    python benchmarks/gpu/parity.py --device cuda --output parity.json

Each line is one superspace and block type, in fp32 and LSQ+: the largest subnet's difference as a share of the CPU's
norm. Exit status 1 if a difference is above --limit. Parameters, images and quantisers start alike; TF32 is off.
"""
from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from modules.utils.cli import make_parser, run
from modules.utils.settings import BATCH, option


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    option(parser, "--device", "cuda", "device to compare with the CPU", choices=("cpu", "cuda"))
    option(parser, "--batch_size", 16, "images", **BATCH)
    option(parser, "--limit", 0.02, "largest difference in fp32, as a share", above=0)
    option(parser, "--output", "", "JSON file for the results; empty: none")
    option(parser, "--superspaces", ("cifarw", "onnxw_tiny"), "superspaces whose block types to compare", many="+")
    args = parser.parse_args(argv)

    import torch

    from modules.search_space.superspace import get_superspace
    from modules.utils.files import atomic_write, machine

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    rows = [{"space": f"{name}-{str(i) * len(space.searched)}", "int8": int8}
            for name in args.superspaces for space in (get_superspace(name),)
            for i in range(len(space.candidates)) for int8 in (False, True)]
    for row in rows:
        row |= compare(row["space"], row["int8"], args.device, args.batch_size)
        print("{space} {mode}: logits differ by {logits:.2e}, gradients by {gradients:.2e}".format(
            mode="LSQ+" if row["int8"] else "fp32", **row), flush=True)
    if args.output:
        with atomic_write(args.output) as file:
            json.dump({"machine": machine(), "arguments": vars(args), "rows": rows}, file, indent=2)
            file.write("\n")
    # A code that rounds the other way moves an int8 network more than the order of its sums.
    worst = max((max(row["logits"], row["gradients"]) for row in rows if not row["int8"]), default=0)
    print(f"largest difference in fp32: {worst:.2e}; allowed: {args.limit:g}")
    sys.exit(worst > args.limit)


def compare(space: str, int8: bool, device: str, batch_size: int) -> dict[str, float]:
    """Differences of logits and of all gradients together."""
    import torch
    import torch.nn.functional as F

    from modules.modeling.ops.lsq_plus import set_quant_mode
    from modules.modeling.supernet import Supernet

    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch_size, 3, 32, 32, generator=generator)
    labels = torch.randint(10, (batch_size,), generator=generator)
    results = []
    for where in ("cpu", device):
        torch.manual_seed(0)
        model = Supernet.build_from_str(space, 10, (32,)).train()
        if int8:
            set_quant_mode(model)
        model.to(where).to(memory_format=torch.channels_last)
        logits = model(images.to(where).contiguous(memory_format=torch.channels_last))
        F.cross_entropy(logits, labels.to(where)).backward()
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        results.append((logits.detach().cpu(), torch.cat(gradients).cpu()))
    return {name: float((b - a).norm() / a.norm())
            for name, a, b in zip(("logits", "gradients"), *results, strict=True)}


if __name__ == "__main__":
    run(main)
