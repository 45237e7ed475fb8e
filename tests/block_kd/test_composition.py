"""Block students one behind the other: against the loss of one stage, exact copies, and a composition by hand."""
import copy

import numpy as np
import pytest
import torch

from modules.block_kd.student.composition import composed_losses, make_chain, stage_choices
from modules.block_kd.student.evaluation import Candidate, evaluate_candidates
from modules.block_kd.student.files import StudentRecord, build_student
from modules.block_kd.student.space import StageChoice
from modules.block_kd.teacher import build_teacher, fit_teacher
from modules.block_kd.teacher.backbone import CutTeacher
from modules.modeling.net_spec import resolve
from modules.modeling.network import resize
from modules.modeling.quant_mode import QuantMode
from modules.search_space.config import SupernetConfig
from modules.search_space.subnet_space import SubnetSpace
from modules.search_space.superspace import get_superspace
from modules.training.calibration import calibrate_bn
from modules.training.losses import noise_to_signal
from modules.utils.errors import UserError

CPU, STAGES = torch.device("cpu"), ("stage1", "stage3", "stage5")
SPACE = SupernetConfig.from_choice("cifarw_short", "166-012")


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    teacher = build_teacher("efficientnet-small", 10)
    fit_teacher(teacher, get_superspace("cifarw_short"))
    assert teacher.segments.index("stage3") == teacher.segments.index("stage1") + 2  # one segment lies between
    calibrate_bn(teacher, [torch.randn(8, 3, 96, 96)])
    return teacher.freeze()


def student(teacher, stage, block, int8=False):
    torch.manual_seed(10 * block + STAGES.index(stage))
    record = StudentRecord("cifarw_short", stage, block, teacher.arch, (24,), quant=QuantMode() if int8 else None)
    return build_student(record, teacher).eval()


@pytest.fixture(scope="module")
def students(teacher):
    return {(stage, block): student(teacher, stage, block) for stage in STAGES for block in (1, 6)}


@pytest.fixture(scope="module")
def images():
    """Calibration batches, and batches with labels to measure on, of unequal sizes."""
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(n, 3, 96, 96, generator=generator) for n in (6, 4, 5, 3)]
    return batches[:2], [(batch, torch.zeros(len(batch), dtype=int)) for batch in batches[2:]]


@pytest.fixture(scope="module")
def subnets():
    rng = np.random.default_rng(0)
    return [SubnetSpace(SPACE, (24,)).sample(rng) for _ in range(2)]


def test_stage_choices_are_the_blocks_of_the_network(subnets):
    for subnet in subnets:
        stages = dict(resolve(SPACE, subnet).stages)
        found = stage_choices(SPACE, subnet)
        assert [(stage, block) for stage, block, _ in found] == list(zip(STAGES, SPACE.blocks, strict=True))
        for stage, _, choice in found:
            blocks = stages[stage]
            assert choice.cin == blocks[0].args.cin
            assert [b.width for b in choice.blocks] == [b.args.cout for b in blocks]
            assert [b.kernel for b in choice.blocks] == [b.args.kernel for b in blocks]


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("stage", ["stage1", "stage3"])
def test_one_stage_has_the_loss_of_its_candidate(teacher, images, stage, int8):
    own, rng = student(teacher, stage, 6, int8), np.random.default_rng(5)
    choices = [own.space.sample(rng) for _ in range(3)]
    alone = evaluate_candidates([Candidate(own, c, 24) for c in choices], teacher, stage, *images, "nsr", CPU)
    assert composed_losses([[Candidate(own, c, 24)] for c in choices], teacher, *images, "nsr", CPU) == alone
    assert len(set(alone)) == 3


def test_a_composition_by_hand(teacher, students, images, subnets):
    """Calibrated, measured and put together stage by stage, on copies with statistics of their own."""
    calibration, batches = images
    found = composed_losses([make_chain(students, SPACE, s) for s in subnets], teacher, *images, "nsr", CPU)
    for subnet, loss in zip(subnets, found, strict=True):
        stage1, stage3, stage5 = (copy.deepcopy(students[stage, block]) for stage, block, _ in
                                  stage_choices(SPACE, subnet))
        for twin, (_, _, choice) in zip((stage1, stage3, stage5), stage_choices(SPACE, subnet), strict=True):
            twin.set_active(choice)

        def first(x):
            return teacher.forward_to_stage(x, "stage1")[1]

        with torch.no_grad():
            x = [first(batch) for batch in calibration]
            calibrate_bn(stage1, x)
            x = [teacher.run_segment("stage2", stage1(batch)) for batch in x]
            calibrate_bn(stage3, x)
            x = [teacher.run_segment("stage4", stage3(batch)) for batch in x]
            calibrate_bn(stage5, x)
            total = 0
            for batch, _ in batches:
                y = teacher.run_segment("stage2", stage1(first(batch)))
                y = stage5(teacher.run_segment("stage4", stage3(y)))
                total += len(batch) * noise_to_signal(y, teacher.forward_to_stage(batch, "stage5")[0]).item()
        assert loss == pytest.approx(total / 8, rel=1e-5)
    assert found[0] != pytest.approx(found[1], rel=1e-3)


def test_a_student_gets_the_output_of_the_one_before(teacher, students, images, subnets):
    """Not the teacher's feature: the loss differs from that of stage5 alone, and with the block of stage1."""
    chain = make_chain(students, SPACE, subnets[0])
    (alone,), (composed,) = (composed_losses([part], teacher, *images, "nsr", CPU) for part in (chain[2:], chain))
    assert composed != pytest.approx(alone, rel=1e-3)
    other = SupernetConfig.from_choice("cifarw_short", "616-012")
    swapped = SubnetSpace(other, (24,)).sample(np.random.default_rng(0))
    assert composed_losses([make_chain(students, other, swapped)], teacher, *images, "nsr", CPU) != [
        pytest.approx(composed, rel=1e-3)]


def test_exact_copies_lose_nothing(students, images, subnets):
    """A teacher whose stages are the students themselves; with one of them changed, the loss is there."""
    stem = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 4, 1, bias=False), torch.nn.BatchNorm2d(8)).eval()
    glue = torch.nn.Conv2d(12, 10, 1)
    widths = {"stage1": (8, 12), "stage3": (10, 14)}

    class Widths:
        arch, stages = "", widths

    copies = {(s, b): build_student(StudentRecord("cifarw_short", s, b, "", (24,)), Widths) for s, b in
              (("stage1", 1), ("stage3", 6), ("stage3", 1))}
    net = torch.nn.ModuleDict({"stem": stem, "one": copy.deepcopy(copies["stage1", 1]), "glue": glue,
                               "three": copy.deepcopy(copies["stage3", 6])})
    teacher = CutTeacher(net, {"first_conv": ("stem",), "stage1": ("one",), "stage2": ("glue",),
                               "stage3": ("three",)})
    choices = [choice for _, _, choice in stage_choices(SPACE, subnets[0])]
    calibration, batches = images
    with torch.no_grad():
        x = [net["stem"](batch) for batch in calibration]
        for name, after, choice in (("one", "glue", choices[0]), ("three", "", choices[1])):
            net[name].set_active(choice)
            calibrate_bn(net[name].eval(), x)
            x = [net[after](net[name](batch)) for batch in x] if after else x
    teacher.freeze()

    def loss(block, choice):
        chain = [Candidate(copies["stage1", 1], choices[0], 96), Candidate(copies["stage3", block], choice, 96)]
        return composed_losses([chain], teacher, calibration, batches, "nsr", CPU)[0]

    assert loss(6, choices[1]) == pytest.approx(0, abs=1e-9)
    assert loss(1, copies["stage3", 1].space.extreme(max)) > 0.1
    deeper = StageChoice(choices[1].cin, choices[1].blocks[:1] + choices[1].blocks)
    assert loss(6, deeper) > 0.1


def test_what_cannot_be_composed_is_refused(teacher, students, images, subnets):
    fewer = {key: value for key, value in students.items() if key != ("stage3", 6)}
    with pytest.raises(UserError, match="cifarw_short-166-012 needs the block student stage3_6; given: stage1_1, "):
        make_chain(fewer, SPACE, subnets[0])
    chain = make_chain(students, SPACE, subnets[0])
    with pytest.raises(UserError, match="a student of stage1 behind one of stage3; allowed: the order stage1, stage2"):
        composed_losses([[chain[1], chain[0], chain[2]]], teacher, *images, "nsr", CPU)
    for given, word in ((([], images[1]), "calibration images"), ((images[0], []), "validation set")):
        with pytest.raises(UserError, match=word):
            composed_losses([make_chain(students, SPACE, subnets[0])], teacher, *given, "nsr", CPU)


def test_every_resolution_is_that_of_its_chain(teacher, students, images, subnets):
    small = SubnetSpace(SPACE, (16,)).sample(np.random.default_rng(0))
    chains = [make_chain(students, SPACE, subnet) for subnet in (subnets[0], small)]
    together = composed_losses(chains, teacher, *images, "nsr", CPU)
    shrunk = [resize(batch, 64) for batch in images[0]], [(resize(batch, 64), labels) for batch, labels in images[1]]
    assert together[1:] == pytest.approx(
        composed_losses([make_chain(students, SPACE, small)], teacher, *shrunk, "nsr", CPU), rel=1e-5)
