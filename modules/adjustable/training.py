"""Training of an adjustable network towards a MicroNet score, its float network the teacher."""
from __future__ import annotations

import csv
import json
import math
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F

from modules.adjustable.config import MINI_EPOCHS, AdjustConfig
from modules.adjustable.cost import micronet_score
from modules.adjustable.network import AdjustableNetwork
from modules.adjustable.quantizer import RANGES
from modules.datasets.classes import check_same_classes
from modules.datasets.loading import train_batches
from modules.datasets.transforms import eval_transform, train_transform
from modules.deploy.graph.lower import lower
from modules.deploy.graph.untrained import untrained_graph
from modules.search_space.config import SubnetChoiceConfig
from modules.training.evaluation import Accuracy, evaluate
from modules.training.subnet_evaluator import SubnetEvaluator
from modules.utils import dist
from modules.utils.checkpoint import load_checkpoint, load_weights, save_checkpoint
from modules.utils.errors import NotFinite, UserError
from modules.utils.figures import COLOURS, new_figure, save_figure
from modules.utils.files import atomic_write, write_manifest
from modules.utils.runs import Run

NAME = "adj.pth"
FILES = ("adj.pth.json", "adj_swa.pth", "quant_info.json", "history.csv", "curves.png")
_EPSILON = 1e-5


def distillation_loss(logits: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """0.01 mean over images of the sum over classes of sqrt(difference^2 + 1e-5): a smooth absolute difference."""
    return 0.01 * ((logits - teacher).square() + _EPSILON).sqrt().sum(1).mean()


class AdjustTrainer:
    """Trains subnet `choice` of the fp32 checkpoint of `evaluator`.

    Args:
        evaluator: gives network, images and the training's preprocessing.
        run: the folder that is written, `NAME` its state.
        start: adj.pth or adj_swa.pth of another run to start from, with other settings; None: the calibrated network.
    """

    def __init__(self, evaluator: SubnetEvaluator, choice: SubnetChoiceConfig, config: AdjustConfig, run: Run, *,
                 start: str | Path | None = None):
        self.evaluator, self.choice, self.config, self.opened, self.start = evaluator, choice, config, run, start
        self.folder = run.path.parent

    def prepare(self) -> None:
        """Build the network and the optimisers, as the run to continue left them if there is one.

        Raises:
            UserError: fewer images than the mini-epochs need; a checkpoint that is missing, foreign, damaged, of
                another subnet, or to be continued with other settings.
        """
        self._check_images()
        config = self.config
        self.teacher = self.evaluator.subnet(self.choice)
        device = next(self.teacher.parameters()).device
        self.network = AdjustableNetwork(lower(self.teacher), RANGES[config.range], config.bits_trainable)
        self.teacher.to(device).eval()
        self.network.calibrate(self.evaluator.calibration).to(device)
        if self.start and not self.opened.continues:
            self._load_start(self.start)
        self.bits = self.network.bit_parameters()
        others = {id(p) for p in self.bits}
        self.rest = [p for p in self.network.parameters() if id(p) not in others]
        self.optimizer = torch.optim.Adam(self.rest, config.lr)
        self.bits_optimizer = torch.optim.Adam(self.bits, config.lr_bits) if self.bits else None
        self.mini_epoch, self.step, self.history = 0, 0, []
        self.sums, self.averaged = None, 0
        if self.opened.continues:
            self._resume()
        dist.broadcast_state(self.network)

    def _check_images(self) -> None:
        images, batch = self._images, self.config.batch_size
        if images < MINI_EPOCHS * batch:
            share = f" for each of {dist.world_size()} processes" * (dist.world_size() > 1)
            most = images // MINI_EPOCHS
            raise UserError(f"--batch_size {batch}: {images} training images{share} are fewer than {MINI_EPOCHS} "
                            f"batches, one for each mini-epoch; "
                            + (f"allowed: up to {most}" if most else f"at least {MINI_EPOCHS} images are needed"))

    def _load_start(self, start: str | Path) -> None:
        checkpoint = load_checkpoint(start)
        subnet = checkpoint.get("config", {}).get("subnet")
        if subnet != str(self.choice):
            raise UserError(f"checkpoint {str(start)!r} (--ckpt_path) is of subnet {subnet}, not of {self.choice}")
        load_weights(self.network, checkpoint, start)

    def score(self) -> torch.Tensor:
        """The network's MicroNet score; differentiable."""
        return micronet_score(*self.network.costs(), gamma=self.config.gamma, norms=self.config.norms)

    def run(self) -> dict:
        """Train to the last epoch; returns the last entry of the history. UserError as `prepare`, or where training
        diverges."""
        self.prepare()
        self.opened.begin()
        if not self.history:
            self._validate()
            self._save()
        while self.mini_epoch < self.config.max_epoch * MINI_EPOCHS:
            self._train()
            if self.config.averages(self.mini_epoch):
                self._add_to_average()
            self.mini_epoch += 1
            self._validate()
            self._save()
        if self.averaged:
            self._take_average()
        self._report()
        return self.history[-1]

    @property
    def _images(self) -> int:
        """Training images of each process."""
        return -(-len(self.evaluator.data.train_indices) // dist.world_size())

    def _train(self) -> None:
        c, data = self.config, self.evaluator.data
        steps = self._images // c.batch_size // MINI_EPOCHS
        size = self.evaluator.record.crop_size
        transform = train_transform("default", size, data.info) if c.aug else eval_transform(size, data.info)
        epoch, part = divmod(self.mini_epoch, MINI_EPOCHS)
        batches = train_batches(data, transform, batch_size=c.batch_size, seed=c.seed, epoch=epoch,
                                start_step=part * steps, rank=dist.rank(), world_size=dist.world_size(),
                                num_workers=self.evaluator.num_workers)
        self.network.train()
        for _, (images, labels) in zip(range(steps), batches, strict=False):
            self._train_step(images.to(self.evaluator.device), labels.to(self.evaluator.device))

    def _train_step(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        c = self.config
        with torch.no_grad():
            target = self.teacher(images)
        logits, score = self.network(images), self.score()
        sign = 1.0 if score.item() > c.metric else -1.0
        loss = distillation_loss(logits, target) + c.alpha * F.cross_entropy(logits, labels) + sign * c.beta * score
        if not math.isfinite(loss.item()):
            raise self._diverged("the loss is not finite")
        self.network.zero_grad(set_to_none=True)
        loss.backward()
        dist.average_gradients(self.network.parameters())
        if not c.lr_fixed:
            self._swing()
        self.optimizer.step()
        if self.bits_optimizer and c.moves_bits(self.mini_epoch):
            self.bits_optimizer.step()
        self.step += 1

    def _diverged(self, why: str) -> UserError:
        return UserError(f"training diverged in mini-epoch {self.mini_epoch}; the last checkpoint in "
                         f"{str(self.folder)!r} is kept, try a smaller --lr: {why}")

    def _swing(self) -> None:
        """The published learning rate: it decays, swings, and starts Adam afresh every `reinit` steps."""
        c = self.config
        if self.step and self.step % c.reinit == 0:
            self.optimizer = torch.optim.Adam(self.rest, c.lr)
        rate = c.lr * math.exp(-self.step * c.lr_decay) * abs(math.cos(math.pi * self.step / (4 * c.reinit))) + 1e-7
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    # -- average of the weights -------------------------------------------------------------------------------------

    def _add_to_average(self) -> None:
        values = [p.detach().clone() for p in self.network.parameters()]
        self.sums = values if self.sums is None else [a + b for a, b in zip(self.sums, values, strict=True)]
        self.averaged += 1

    def _take_average(self) -> None:
        with torch.no_grad():
            for parameter, total in zip(self.network.parameters(), self.sums, strict=True):
                parameter.copy_(total / self.averaged)
        self._validate(average=True)
        if dist.rank() == 0:
            save_checkpoint(self.folder / "adj_swa.pth", self._model_state())

    # -- files ------------------------------------------------------------------------------------------------------

    def _validate(self, average: bool = False) -> None:
        accuracy = evaluate(self.network, self.evaluator.validation_batches())
        self.history.append({"mini_epoch": self.mini_epoch, "average": average, "top1": accuracy.top1,
                             "score": self.score().item()})
        if dist.rank() == 0:
            print(f"mini-epoch {self.mini_epoch}{' (average)' if average else ''}: acc1 {accuracy}, score "
                  f"{self.history[-1]['score']:.6f}", flush=True)

    def _model_state(self) -> dict:
        return {"state_dict": self.network.state_dict(), "config": {
            **self.evaluator.record.to_dict(), "subnet": str(self.choice), "adjust": asdict(self.config)}}

    def _save(self) -> None:
        try:
            dist.on_first(self._write)
        except NotFinite as error:
            raise self._diverged(str(error)) from None

    def _write(self) -> None:
        save_checkpoint(self.folder / NAME, self._model_state() | {
            "optimizer": self.optimizer.state_dict(), "mini_epoch": self.mini_epoch, "step": self.step,
            "bits_optimizer": self.bits_optimizer.state_dict() if self.bits_optimizer else None,
            "history": self.history, "sums": self.sums, "averaged": self.averaged})

    def _resume(self) -> None:
        run = self.opened
        checkpoint = load_checkpoint(run.path)
        with run.reading():
            before = checkpoint["config"]["adjust"] | {"subnet": checkpoint["config"]["subnet"]}
        run.check_same(before, asdict(self.config) | {"subnet": str(self.choice)}, {"max_epoch"})
        load_weights(self.network, checkpoint, run.path)
        with run.reading():
            self.optimizer.load_state_dict(checkpoint["optimizer"])
            if self.bits_optimizer:
                self.bits_optimizer.load_state_dict(checkpoint["bits_optimizer"])
            self.mini_epoch, self.step, self.history = (checkpoint[key] for key in ("mini_epoch", "step", "history"))
            self.sums, self.averaged = checkpoint["sums"], checkpoint["averaged"]

    def _report(self) -> None:
        if dist.rank():
            return
        with atomic_write(self.folder / "quant_info.json") as file:
            lines = (f"{json.dumps(name)}: {json.dumps(bits)}" for name, bits in self.network.bits().items())
            file.write("{\n" + ",\n".join(lines) + "\n}\n")
        with atomic_write(self.folder / "history.csv") as file:
            writer = csv.DictWriter(file, list(self.history[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.history)
        self._draw()
        write_manifest(self.folder / NAME, subnet=str(self.choice), checkpoint=str(self.evaluator.path),
                       **{key: self.history[-1][key] for key in ("top1", "score")})

    def _draw(self) -> None:
        figure = new_figure(10, 4)
        left, right = figure.subplots(1, 2)
        steps = [entry["mini_epoch"] for entry in self.history if not entry["average"]]
        for axes, key, label in ((left, "top1", "validation top-1, %"), (right, "score", "MicroNet score")):
            axes.plot(steps, [entry[key] for entry in self.history if not entry["average"]], marker="o",
                      color=COLOURS[0])
            for entry in self.history:
                if entry["average"]:
                    axes.plot(entry["mini_epoch"], entry[key], marker="*", markersize=12, color=COLOURS[1],
                              linestyle="", label="average of the weights")
            axes.set(xlabel="mini-epoch", ylabel=label)
            axes.grid(alpha=0.3)
        right.axhline(self.config.metric, color="black", linestyle=":", linewidth=1, label="target")
        right.set_ylim(bottom=0)
        right.legend()
        save_figure(figure, self.folder / "curves.png")


def evaluate_adjustable(path: str | Path, evaluator: SubnetEvaluator
                        ) -> tuple[AdjustableNetwork, AdjustConfig, Accuracy]:
    """The network of an `adj.pth` or `adj_swa.pth`, its settings, and its accuracy on the evaluator's validation part.

    Args:
        evaluator: of the checkpoint that the training started from.

    Raises:
        UserError: a missing or foreign file; one of other classes than the evaluator's checkpoint.
    """
    checkpoint = load_checkpoint(path)
    settings = checkpoint.get("config", {})
    if "adjust" not in settings:
        raise UserError(f"checkpoint {str(path)!r} is not one of adj_quant/train.py")
    check_same_classes(settings.get("classes", ()), evaluator.record.classes, str(path))
    config = AdjustConfig(**settings["adjust"])
    graph = untrained_graph(evaluator.space, SubnetChoiceConfig.from_str(settings["subnet"]), int8=False,
                            num_classes=len(evaluator.record.classes))
    network = AdjustableNetwork(graph, RANGES[config.range], config.bits_trainable)
    load_weights(network, checkpoint, path)
    network.quantize().to(evaluator.device).eval()
    return network, config, evaluate(network, evaluator.validation_batches())
