"""Images per second of the input pipeline: made one by one (crop, flip, resize) against shifted in batches.

    OMP_NUM_THREADS=1 python benchmarks/bench_input.py --dataset_path /path/to/cifar10
    python benchmarks/bench_input.py --dataset_path /path/to/cifar10 --device cuda --output input.json
"""
from __future__ import annotations

import statistics
import sys
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.utils.cli import make_parser, run
from modules.utils.settings import BATCH, PIXELS, option


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    option(parser, "--dataset", "", "data set: digits, folder, CIFAR10 ...; empty: folder if --dataset_path is given")
    option(parser, "--dataset_path", "", "folder of the images")
    option(parser, "--resolution", 32, "image size", **PIXELS)
    option(parser, "--batch_size", 256, "images per batch", **BATCH)
    option(parser, "--batches", 20, "batches per turn", low=1)
    option(parser, "--rounds", 5, "turns, of which the median counts", low=1)
    option(parser, "--device", "cpu", "device of the batches", choices=("cpu", "cuda"))
    option(parser, "--output", "", "JSON file for the results; empty: none")
    args = parser.parse_args(argv)

    from modules.runtime.torch_timer import conditions
    from modules.utils.files import write_json

    rates = {name: statistics.median(values) for name, values in measure(args).items()}
    for name, rate in rates.items():
        print(f"{name}: {rate:.0f} images/s")
    if args.output:
        write_json(args.output, {"machine": conditions(), "arguments": vars(args),
                                 "images_per_second": rates})


def measure(args) -> dict[str, list[float]]:
    """Images per second over the rounds, by augmentation. The set is decoded before; the first round is left out."""
    import torch

    from modules.datasets.build import load_data
    from modules.datasets.loading import train_batches
    from modules.datasets.shift import held_pixels
    from modules.datasets.transforms import train_transform
    from modules.runtime.torch_timer import now

    device = torch.device(args.device)
    data = load_data(args.dataset or None, args.dataset_path or None)
    held_pixels(data.train, data.train_indices, args.device).prepare()
    rates = {"default": [], "shift": []}
    for epoch in range(args.rounds + 1):
        for name, values in rates.items():
            batches = iter(train_batches(data, train_transform(name, args.resolution, data.info), seed=0, epoch=epoch,
                                         batch_size=args.batch_size, device=args.device))
            next(batches)  # the epoch's order and draws
            start, images = now(device), 0
            for x, _ in islice(batches, args.batches):
                images += len(x.to(device))
            if epoch:
                values.append(images / (now(device) - start))
    return rates


if __name__ == "__main__":
    run(main)
