"""Signal-to-quantisation-noise ratio of every tensor: it shows the layers where an int8 model loses accuracy."""
from __future__ import annotations

import copy
from dataclasses import asdict, dataclass

import numpy as np
import torch

from modules.deploy.graph.graph import OUTPUT, Graph
from modules.deploy.graph.observe import observe
from modules.deploy.graph.plan import make_plan
from modules.deploy.graph.reference import execute, value
from modules.modeling.network import QNetwork, resize
from modules.modeling.ops.lsq_plus import set_quant_mode
from modules.utils.figures import new_figure, save_figure

_HIGHEST = 99.0  # dB, for tensors without any noise


@dataclass(frozen=True)
class TensorNoise:
    """One tensor: its name, `scale` of its codes in the engine (0: float), standard deviation, and ratios in dB.

    `engine_db`: the engine against the fake-quantised network. `training_db`: the fake-quantised network against the
    float one.
    """

    tensor: str
    scale: float
    deviation: float
    engine_db: float
    training_db: float


def measure_noise(net: QNetwork, graph: Graph, images: torch.Tensor) -> list[TensorNoise]:
    """The noise of every tensor of `net` on images (N, 3, H, W), in order of execution.

    The engine is the reference executor of the int8 `graph` of `net`. If the engine writes a tensor in the codes of the
    layer that reads it, both networks' values are compared in these codes: rounding to them is no difference. Inputs of
    activations are left out: the engine codes only the part of them that matters. Constant tensors are left out too.
    """
    images = resize(images, net.resolution)
    plan = make_plan(graph)
    fake, plain = _tensors(net, images), _tensors(set_quant_mode(copy.deepcopy(net), 32, 32), images)
    engine, rows = execute(plan, images.numpy()), []
    for name, operand in plan.values.items():
        readers = graph.consumers.get(name, [])
        if name not in fake or not fake[name].std() or (readers and all(reader.op == "act" for reader in readers)):
            continue
        quantizer, wanted = operand.quantizer, fake[name]
        if quantizer in {getattr(reader, "quantizer", None) for reader in readers} - {None}:
            wanted = quantizer.values(quantizer.codes(wanted))
        rows.append(TensorNoise(name, float(quantizer.scale) if quantizer else 0.0, float(fake[name].std()),
                                ratio_db(wanted, value(operand, engine)), ratio_db(plain[name], fake[name])))
    return rows


def ratio_db(signal: np.ndarray, noisy: np.ndarray) -> float:
    """Decibels: 10 log10 of the variance of `signal`, such as (1, 24, 56, 56), over the mean square of `noisy -
    signal`; 99 at most and -99 at least."""
    signal = signal.astype(np.float64)
    power, noise = signal.var(), ((noisy - signal) ** 2).mean()
    if not noise:
        return _HIGHEST
    return float(np.clip(10 * np.log10(max(power, 1e-300) / noise), -_HIGHEST, _HIGHEST))


def _tensors(net: QNetwork, images: torch.Tensor) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}
    observe(net, images, lambda name, tensor: tensors.update({name: tensor.numpy().copy()}))
    return tensors


def table(rows: list[TensorNoise]) -> list[dict]:
    """`rows` for printing and csv."""
    return [{key: f"{entry:.4g}" if isinstance(entry, float) else entry for key, entry in asdict(row).items()}
            for row in rows]


def plot_noise(rows: list[TensorNoise], path) -> None:
    """Write a figure of both ratios along the network as PNG."""
    figure = new_figure(max(7.0, 0.16 * len(rows)), 5.0)
    axes = figure.add_subplot()
    positions = np.arange(len(rows))
    axes.plot(positions, [row.training_db for row in rows], ".-", label="fake-quantised against float network")
    axes.plot(positions, [row.engine_db for row in rows], ".-", label="engine against fake-quantised network")
    axes.set_xticks(positions, [row.tensor if row.tensor != OUTPUT else "logits" for row in rows], rotation=90,
                    fontsize=6)
    axes.set_ylabel("signal to noise, dB")
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path)
