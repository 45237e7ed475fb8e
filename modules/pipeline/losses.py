"""The losses by which the search of the space tells block configurations apart."""
from __future__ import annotations

from dataclasses import dataclass

from modules.block_kd.lut.tables import drawn, how_made, load_tables
from modules.block_kd.student.space import check_output_sizes, stage_list
from modules.pipeline.request import AUTO, NONE, OWN, SCORE, Request
from modules.search_space.superspace import get_superspace
from modules.utils.errors import UserError
from modules.utils.files import REPOSITORY
from modules.utils.notes import say
from modules.zero_shot.scoring import check_proxy

SCORED_TABLES = REPOSITORY / "data" / "zen_lut"  # tables of SCORE that come with the project


@dataclass(frozen=True)
class Losses:
    """The losses of the block tables: of given tables, of students, or else of the score alone.

    Args:
        given: the tables are there.
        students: blocks are distilled from a teacher.
        score: training-free score whose losses count too, or alone; "" for none.
        scored: the tables of that score come with the project.
    """

    given: bool = False
    students: bool = False
    score: str = ""
    scored: bool = False

    @property
    def alone(self) -> bool:
        """Whether the score is all there is."""
        return not (self.given or self.students)

    @property
    def needs_scores(self) -> bool:
        """Whether tables of the score are to be made beside the others."""
        return bool(self.score) and not self.scored and not self.alone


SCORE_ALONE = Losses(score=SCORE)


def asked_losses(request: Request) -> Losses:
    """The losses that `request` names, without those that `auto` adds."""
    own = request.tables == OWN
    return Losses(not own, own, "" if request.zero_shot in (AUTO, NONE) else request.zero_shot)


def choose_losses(request: Request) -> Losses:
    """The losses for `request`. With `auto` the score counts beside students, beside given tables for whose rows the
    project has it, and alone where students are impossible.

    Raises:
        UserError: an unknown score; given tables that do not say their rows, or students that are impossible at these
            resolutions, where they are asked for.
    """
    losses, auto = asked_losses(request), request.zero_shot == AUTO
    if losses.score:
        check_proxy(losses.score)
    if losses.given:
        for name in ("teacher", "teacher_weights"):
            if getattr(request, name):
                say(f"--{name} has no effect with --tables {request.tables}")
        if (auto or losses.score == SCORE) and _comes_with_project(request):
            return Losses(given=True, score=SCORE, scored=True)
        if losses.score:
            drawn(request.tables, request.superspace, request.spaces.seeds())
        return losses
    try:
        check_output_sizes(get_superspace(request.superspace), stage_list(request.superspace, None),
                           [max(request.pixels)], "nsr", "--resolutions", "--tables with tables that are there")
    except UserError:
        if request.may_lack_students:
            return SCORE_ALONE
        raise
    return Losses(students=True, score=SCORE) if auto else losses


def _comes_with_project(request: Request) -> bool:
    """Whether the project has the score of every row of the given tables."""
    seeds = tuple(request.spaces.seeds())
    try:
        resolutions = how_made(request.tables, request.superspace, otherwise=request.platform)[1]
        tables, scored = (load_tables(folder, request.superspace, resolutions, seeds)
                          for folder in (request.tables, SCORED_TABLES))
        tables.plus_losses(scored)
    except UserError:
        return False
    return True
