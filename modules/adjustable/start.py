"""Where an adjustable network comes from: a checkpoint's weights, ranges, another run's network, and its teacher."""
from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import torch

from modules.adjustable.config import RANGES, AdjustConfig, QuantizerSettings
from modules.adjustable.files import Ranges, read_thresholds
from modules.adjustable.network import AdjustableNetwork
from modules.datasets.classes import check_same_classes
from modules.deploy.graph.graph import Graph, Quantizer, WeightNode
from modules.deploy.graph.lower import lower
from modules.deploy.graph.untrained import untrained_graph
from modules.modeling.restore import check_trained, load_supernet
from modules.search_space.config import SubnetChoiceConfig
from modules.training.evaluation import Accuracy, evaluate, extract_calibrated
from modules.training.subnet_evaluator import SubnetEvaluator
from modules.utils.checkpoint import load_checkpoint, load_weights
from modules.utils.errors import UserError
from modules.utils.notes import print_once, say

_STRUCTURE = [field.name for field in fields(AdjustConfig) if field.name in
              {"granularity", *(f.name for f in fields(QuantizerSettings))}]


def start_graph(evaluator: SubnetEvaluator, choice: SubnetChoiceConfig) -> Graph:
    """The inference graph of the evaluator's subnet: float weights, and the trained codes if it is an int8 one."""
    return lower(evaluator.subnet(choice), [] if evaluator.quant_mode else None, str(evaluator.path))


def start_network(evaluator: SubnetEvaluator, graph: Graph, config: AdjustConfig, thresholds: str | Path = ""
                  ) -> AdjustableNetwork:
    """The quantised network of `graph` with its ranges: those of the file `thresholds`, or minimum and maximum over the
    calibration images, and the learned ones of an LSQ+ checkpoint."""
    network = AdjustableNetwork(graph, config.quantizers)
    if not thresholds or config.quantizers.engine:  # no file has the image's range, which engines need
        network.to(evaluator.device).calibrate(images.to(evaluator.device) for images in evaluator.calibration).cpu()
    if thresholds:
        needed = ({name: len(low) for name, (low, _) in part.items()} for part in network.ranges())
        network.set_ranges(*read_thresholds(thresholds, network.placement, *needed))
    elif graph.int8:
        network.set_ranges(*learned_ranges(graph, network, evaluator.record.quant.nbits_w))
    return network.to(evaluator.device)


def learned_ranges(graph: Graph, network: AdjustableNetwork, bits: int = 8) -> tuple[Ranges, Ranges]:
    """The ranges that the codes of an int8 graph span: of weights, of `bits` bits, by their layer, and of tensors. A
    tensor that several layers read in their own codes has the widest."""
    layers = [node for node in graph.nodes if isinstance(node, WeightNode)]
    top = 2 ** (bits - 1) - 1
    lowest = -top if network.settings.engine else -top - 1  # engines have symmetric codes
    weights = {node.output: (lowest * node.scales, top * node.scales) for node in layers}
    spans = {name: _span(quantizer) for name, quantizer in graph.quantizers.items()}
    for node in layers:
        name, (low, high) = node.inputs[0], _span(node.quantizer)
        known = spans.get(name, (low, high))
        spans[name] = min(low, known[0]), max(high, known[1])
    return weights, {name: tuple(torch.full((network.shapes[name][0],), end) for end in ends)
                     for name, ends in spans.items() if name in network.shapes}


def _span(quantizer: Quantizer) -> tuple[float, float]:
    scale = float(quantizer.scale)
    return -quantizer.zero_point * scale, (255 - quantizer.zero_point) * scale


def teacher_network(evaluator: SubnetEvaluator, graph: Graph, choice: SubnetChoiceConfig, path: str = ""
                    ) -> torch.nn.Module:
    """The teacher of the network: the fp32 checkpoint `path` of the same subnet, or `graph` in float."""
    teacher = AdjustableNetwork(graph, QuantizerSettings())
    if path:
        supernet, record = load_supernet(path, evaluator.space, quant_mode=False)
        check_same_classes(record.classes, evaluator.record.classes, path)
        check_trained(record, choice, path)
        images = None if record.keeps_statistics else [images.to(evaluator.device) for images in evaluator.calibration]
        teacher = extract_calibrated(supernet.to(evaluator.device), choice, images)
    return teacher.to(evaluator.device).requires_grad_(False).eval()


# -- networks of runs -----------------------------------------------------------------------------------------------

def _load_run(path: str | Path) -> tuple[dict, AdjustConfig, SubnetChoiceConfig, tuple[str, ...]]:
    """A checkpoint of adj_quant/train.py, the settings of its training, its subnet and its classes."""
    checkpoint = load_checkpoint(path)
    try:
        settings = checkpoint["config"]
        return (checkpoint, AdjustConfig(**settings["adjust"]), SubnetChoiceConfig.from_str(settings["subnet"]),
                tuple(settings["classes"]))
    except (KeyError, TypeError):
        raise UserError(f"checkpoint {str(path)!r} is not one of adj_quant/train.py; one of train_supernet.py goes to "
                        "--checkpoint_path") from None


def _check_same_start(path: str | Path, checkpoint: dict, classes: tuple[str, ...], evaluator: SubnetEvaluator) -> None:
    """UserError if a run started from the checkpoint of another network, or of other classes, than the evaluator's."""
    trained = checkpoint["config"].get("supernet", str(evaluator.space))
    if trained != str(evaluator.space):
        raise UserError(f"checkpoint {str(path)!r} is of {trained}, not of {evaluator.space}")
    check_same_classes(classes, evaluator.record.classes, str(path))


def load_start(network: AdjustableNetwork, path: str | Path, choice: SubnetChoiceConfig, config: AdjustConfig,
               evaluator: SubnetEvaluator) -> None:
    """Take the network of another run. One without trained bits starts the bits where it has them.

    Args:
        evaluator: of the checkpoint that this run starts from.

    Raises:
        UserError: a file of another network, or of quantisers that this run does not have; it names the option to add.
    """
    checkpoint, before, subnet, classes = _load_run(path)
    _check_same_start(path, checkpoint, classes, evaluator)
    if subnet != choice:
        raise UserError(f"checkpoint {str(path)!r} (--ckpt_path) is of subnet {subnet}, not of {choice}")
    for name in _STRUCTURE:
        old, new = getattr(before, name), getattr(config, name)
        if old != new and not (name == "bits_trainable" and new):
            option = f"--{name}" if old is True else f"--{name} {old}"
            raise UserError(f"checkpoint {str(path)!r} (--ckpt_path) was trained with {name} {old}, and this run has "
                            f"{new}; " + (f"leave out --{name}" if old is False else f"add {option}"
                                          + (" --finetune to keep its bits" if name == "bits_trainable" else "")))
    if any(new[0] > old[0] or new[1] < old[1] for old, new in zip(RANGES[before.range], RANGES[config.range],
                                                                  strict=True)):
        say(f"{path} was trained with --range {before.range}: ranges beyond those of {config.range} are cut")
    weights = dict(checkpoint["state_dict"])
    if config.bits_trainable and not before.bits_trainable:
        print_once(f"{path} has no trained bits; they start at --weight_bits and --act_bits")
        weights |= {name: value for name, value in network.state_dict().items() if name.endswith("bits_scale")}
    load_weights(network, checkpoint | {"state_dict": weights}, path)


def load_adjustable(path: str | Path, evaluator: SubnetEvaluator
                    ) -> tuple[AdjustableNetwork, AdjustConfig, SubnetChoiceConfig]:
    """The network that adj_quant/train.py wrote, its settings and its subnet.

    Args:
        evaluator: of the checkpoint that the training started from.

    Raises:
        UserError: a missing or foreign file; one of other classes than the evaluator's checkpoint.
    """
    checkpoint, config, choice, classes = _load_run(path)
    _check_same_start(path, checkpoint, classes, evaluator)
    evaluator.load_at(choice.resolution)
    graph = untrained_graph(evaluator.space, choice, int8=False, num_classes=len(evaluator.record.classes))
    network = AdjustableNetwork(graph, config.quantizers)
    load_weights(network, checkpoint, path)
    return network.quantize().to(evaluator.device).eval(), config, choice


def evaluate_adjustable(path: str | Path, evaluator: SubnetEvaluator
                        ) -> tuple[AdjustableNetwork, AdjustConfig, Accuracy]:
    """The network of a file, its settings, and its accuracy on the evaluator's validation part; errors as
    `load_adjustable`."""
    network, config, _ = load_adjustable(path, evaluator)
    return network, config, evaluate(network, evaluator.validation_batches())
