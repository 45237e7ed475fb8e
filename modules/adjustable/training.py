"""Training of an adjustable network towards a MicroNet score, its float network the teacher."""
from __future__ import annotations

import math
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F

from modules.adjustable.config import MINI_EPOCHS, AdjustConfig
from modules.adjustable.points import FOLDER, STATE, TABLE, Point, front, write_points
from modules.adjustable.quantizer import land
from modules.adjustable.report import REPORTS, write_average, write_report
from modules.adjustable.start import load_start, start_graph, start_network, teacher_network
from modules.datasets.loading import train_batches
from modules.datasets.transforms import eval_transform, train_transform
from modules.search_space.config import SubnetChoiceConfig
from modules.training.evaluation import evaluate
from modules.training.subnet_evaluator import SubnetEvaluator
from modules.utils import dist
from modules.utils.checkpoint import load_checkpoint, load_weights, save_checkpoint, weights_digest
from modules.utils.errors import NotFinite, UserError
from modules.utils.files import file_digest
from modules.utils.runs import Run

NAME = STATE
FILES = (FOLDER, TABLE, *REPORTS)
_EPSILON = 1e-5
_TRACED = 50  # scores of a mini-epoch that are kept for the figure


def distillation_loss(logits: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """A smooth absolute difference of logits (N, K) each, such as (25, 1000), as in the published repository: 0.01
    times the mean over images of the sum over classes of sqrt(d^2 + 1e-5), where d = logits - teacher; a scalar."""
    return 0.01 * ((logits - teacher).square() + _EPSILON).sqrt().sum(1).mean()


class AdjustTrainer:
    """Trains subnet `choice` of the checkpoint of `evaluator`, which is in fp32 or in int8.

    Args:
        evaluator: gives network, images and the training's preprocessing.
        run: the folder that is written, `NAME` its state.
        start: adj.pth or another network of another run to start from, with other settings; None: the calibrated
            network.
        teacher: an fp32 checkpoint of the same subnet; "": the network itself in float.
        thresholds: a file of ranges to start from; "": they are calibrated.
    """

    def __init__(self, evaluator: SubnetEvaluator, choice: SubnetChoiceConfig, config: AdjustConfig, run: Run, *,
                 start: str | Path | None = None, teacher: str = "", thresholds: str | Path = ""):
        self.evaluator, self.choice, self.config, self.opened, self.start = evaluator, choice, config, run, start
        self.teacher_path, self.thresholds = teacher, thresholds
        self.folder = run.path.parent

    def prepare(self) -> None:
        """Build the network and the optimisers, as the run to continue left them if there is one.

        Raises:
            UserError: fewer images than the mini-epochs need; an average of nothing; a checkpoint that is missing,
                foreign, damaged, of another subnet, or to be continued with other settings.
        """
        self._check_images()
        config = self.config
        if not self.opened.continues:
            config.check_average()
        graph = start_graph(self.evaluator, self.choice)
        self.teacher = teacher_network(self.evaluator, graph, self.choice, self.teacher_path)
        thresholds = "" if self.opened.continues else self.thresholds  # the state has the ranges
        self.network = start_network(self.evaluator, graph, config, thresholds)
        if self.start and not self.opened.continues:
            load_start(self.network, self.start, self.choice, config, self.evaluator)
        self.bits = self.network.bit_parameters()
        others = {id(p) for p in self.bits}
        self.rest = [p for p in self.network.parameters() if id(p) not in others]
        self.optimizer = torch.optim.Adam(self.rest, config.lr, fused=True)
        self.bits_optimizer = torch.optim.Adam(self.bits, config.lr_bits, fused=True) if self.bits else None
        self.mini_epoch, self.step, self.history, self.trace = 0, 0, [], []
        self.sums, self.averaged, self.reached = None, 0, False
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

    def score(self) -> torch.Tensor:
        """The network's MicroNet score; differentiable."""
        return self.network.score(self.config.gamma, self.config.norms)

    def validate(self) -> dict:
        """Accuracy and score of the network that the run would start from; nothing is written."""
        self.prepare()
        self._validate()
        return self.history[-1]

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
            self._land()
            if self.config.averages(self.mini_epoch):
                self._add_to_average()
            self.mini_epoch += 1
            self._validate()
            self._save()
        self._say_outcome()
        dist.on_first(lambda: write_points(self.folder, self.points))  # a kill between file and points left them behind
        dist.on_first(lambda: write_report(self))
        if self.averaged:
            self._take_average()
            dist.on_first(lambda: write_average(self))
        return self.history[-1]

    @property
    def points(self) -> list[Point]:
        """The history."""
        return [Point(**entry) for entry in self.history]

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
        for i, (images, labels) in zip(range(steps), batches, strict=False):
            score = self._train_step(images.to(self.evaluator.device), labels.to(self.evaluator.device))
            if i % -(-steps // _TRACED) == 0:
                self.trace.append((self.step, score))

    def _train_step(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        """One step; returns the score before it."""
        c = self.config
        with torch.no_grad():
            target = self.teacher(images)
        logits, score = self.network(images), self.score()
        now = score.item()
        self.reached = self.reached or now <= c.metric
        loss = (distillation_loss(logits, target) + c.alpha * F.cross_entropy(logits, labels)
                + c.sign(now) * c.beta * score)
        if not math.isfinite(loss.item()):
            raise self._diverged("the loss is not finite")
        self.network.zero_grad(set_to_none=True)
        loss.backward()
        dist.average_gradients(self.network.parameters())
        if not c.lr_fixed:
            self._swing()
        self.optimizer.step()
        if self._moves_bits:
            self.bits_optimizer.step()
        self.step += 1
        return now

    @property
    def _moves_bits(self) -> bool:
        return self.bits_optimizer is not None and self.config.moves_bits(self.mini_epoch)

    def _land(self) -> None:
        """A network that has been at the target ends no mini-epoch above it."""
        if self.reached and self._moves_bits:
            land(self.network.learned_quantizers(), lambda: self.score().item(), self.config.metric)

    def _say_outcome(self) -> None:
        last, c = self.history[-1], self.config
        if dist.rank() == 0 and c.bits_trainable and not c.finetune and last["score"] > c.metric:
            print(f"the run ends at a score of {last['score']:.6f}, above --metric {c.metric:g}; for the "
                  "target give it more --max_epoch or a larger --lr_bits or --beta", flush=True)

    def _diverged(self, why: str) -> UserError:
        return UserError(f"training diverged in mini-epoch {self.mini_epoch}; the last checkpoint in "
                         f"{str(self.folder)!r} is kept, try a smaller --lr: {why}")

    def _swing(self) -> None:
        """The published learning rate: it decays, swings, and starts Adam afresh every `reinit` steps."""
        c = self.config
        if self.step and self.step % c.reinit == 0:
            self.optimizer = torch.optim.Adam(self.rest, c.lr, fused=True)
        rate = c.lr * math.exp(-self.step * c.lr_decay) * abs(math.cos(math.pi * self.step / (4 * c.reinit))) + 1e-7
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    # -- average of the weights -------------------------------------------------------------------------------------

    def _add_to_average(self) -> None:
        values = [p.detach().clone() for p in self.network.parameters()]
        self.sums = values if self.sums is None else [
            total.to(value.device) + value for total, value in zip(self.sums, values, strict=True)]
        self.averaged += 1

    def _take_average(self) -> None:
        with torch.no_grad():
            for parameter, total in zip(self.network.parameters(), self.sums, strict=True):
                parameter.copy_(total / self.averaged)
        if self.reached and self.bits and not self.config.finetune:
            land(self.network.learned_quantizers(), lambda: self.score().item(), self.config.metric)
        self._validate(average=True)

    # -- files ------------------------------------------------------------------------------------------------------

    def _validate(self, average: bool = False) -> None:
        accuracy = evaluate(self.network, self.evaluator.validation_batches())
        self.history.append({"mini_epoch": self.mini_epoch, "average": average, "top1": accuracy.top1,
                             "score": self.score().item()})
        if dist.rank() == 0:
            print(f"mini-epoch {self.mini_epoch}{' (average)' if average else ''}: acc1 {accuracy}, score "
                  f"{self.history[-1]['score']:.6f}", flush=True)

    def model_state(self) -> dict:
        """The entries of a file of the network."""
        return {"state_dict": self.network.state_dict(), "config": {
            **self.evaluator.record.to_dict(), "subnet": str(self.choice), "adjust": asdict(self.config)}}

    def _save(self) -> None:
        try:
            dist.on_first(self._write)
        except NotFinite as error:
            raise self._diverged(str(error)) from None

    def _write(self) -> None:
        points = self.points
        if points[-1] in front(points):
            save_checkpoint(self.folder / points[-1].file, self.model_state())
        save_checkpoint(self.folder / NAME, self.model_state() | {
            "optimizer": self.optimizer.state_dict(), "mini_epoch": self.mini_epoch, "step": self.step,
            "bits_optimizer": self.bits_optimizer.state_dict() if self.bits_optimizer else None,
            "history": self.history, "sums": self.sums, "averaged": self.averaged, "trace": self.trace,
            "reached": self.reached, "source": self._source})
        write_points(self.folder, points)

    @cached_property
    def _source(self) -> dict:
        """Images and teacher, which a continued run keeps; each save holds them."""
        evaluator = self.evaluator
        return {"quant_mode": evaluator.quant_mode, "teacher_path": self.teacher_path,
                "weights of --checkpoint_path": weights_digest(evaluator.model.state_dict()),
                "content of --teacher_path": file_digest(self.teacher_path) if self.teacher_path else "",
                "--num_calib_batches": evaluator.calibration_batches, "--augment": evaluator.augment,
                "number of processes": dist.world_size(),
                "number of training images": len(evaluator.data.train_indices),
                "number of validation images": len(evaluator.data.valid_indices)}

    def _resume(self) -> None:
        run = self.opened
        checkpoint = load_checkpoint(run.path)
        with run.reading():
            before = checkpoint["config"]["adjust"] | {"subnet": checkpoint["config"]["subnet"]}
        run.check_same(before, asdict(self.config) | {"subnet": str(self.choice)}, {"max_epoch"})
        run.check_same(checkpoint.get("source", {}), self._source)  # older files do not have it
        load_weights(self.network, checkpoint, run.path)
        with run.reading():
            self.optimizer.load_state_dict(checkpoint["optimizer"])
            if self.bits_optimizer:
                self.bits_optimizer.load_state_dict(checkpoint["bits_optimizer"])
            self.mini_epoch, self.step, self.history = (checkpoint[key] for key in ("mini_epoch", "step", "history"))
            self.sums, self.averaged = checkpoint["sums"], checkpoint["averaged"]
            self.trace, self.reached = list(checkpoint["trace"]), checkpoint["reached"]
