"""Command line options that the searches for a structure share."""
from __future__ import annotations

from typing import TYPE_CHECKING

from modules.search.limits import SizeLimits
from modules.search.measured import MEASURE_BEST
from modules.utils.cli import add_run_arguments
from modules.utils.notes import say
from modules.utils.settings import PIXELS, SEED, TRAIN_BATCH, add_arguments, from_arguments, option

if TYPE_CHECKING:
    from modules.search_space.networks.structure import Structure
    from modules.search_space.networks.zen_space import Preset, ZenSpace
    from modules.zero_shot.search import Limits

PROXIES = "Zen, NASWOT, GradNorm, Syncflow, NTK, RN, TE-NAS, ZiCo, QE, Flops, Params, Latency:PLATFORM or Random"


def add_search_arguments(parser, *, latency_unit: str, batch: str) -> None:
    """Limits, size and files of a search. `latency_unit` is that of --budget_latency; `batch` describes the default of
    --batch_size."""
    option(parser, "--gpu", None, "number of the GPU that scores", kind=int, low=0, high=1023, shown="the CPU scores")
    option(parser, "--evolution_max_iter", 480000, "mutations; most are refused", low=1)
    option(parser, "--max_evaluations", None, "scored structures after which the search stops", kind=int, low=1,
           shown="never")
    option(parser, "--children", 1, "structures from one population; --workers score them side by side", low=1,
           high=4096)
    option(parser, "--workers", 0, "processes that score; 0: the script itself. The result is the same for any number",
           low=0, high=256)
    option(parser, "--population_size", 512, "structures that are alive", low=1)
    option(parser, "--budget_model_size", None, "most parameters", kind=float, above=0, unit="parameters", shown="any")
    option(parser, "--budget_flops", None, "most multiply-accumulates", kind=float, above=0, unit="MACs", shown="any")
    option(parser, "--budget_latency", None, "highest latency of an image", kind=float, above=0, unit=latency_unit,
           shown="any")
    option(parser, "--platform", "", "device of --budget_latency, such as onnxruntime_int8")
    option(parser, "--latency_confidence", 0.9, "probability with which a network keeps --budget_latency where the "
           "platform's model extrapolates; 0: as predicted", low=0, below=1)
    option(parser, "--measure_best", 0, MEASURE_BEST, low=0)
    add_arguments(parser, SizeLimits)
    option(parser, "--max_layers", None, "most layers", kind=int, low=1, shown="the space's")
    option(parser, "--input_image_size", None, "image size", kind=int, shown="the space's", **PIXELS)
    option(parser, "--num_classes", None, "classes", kind=int, low=1, high=10**6, shown="the space's")
    option(parser, "--batch_size", None, "images per score", kind=int, shown=batch, **TRAIN_BATCH)
    SEED.add_to(parser, "--seed")
    option(parser, "--save_dir", "results/zen_nas", "folder of all files")
    add_run_arguments(parser, "search")


def given_limits(args, space: ZenSpace, preset: Preset | None = None, default: Preset | None = None,
                 ms: float = 1) -> Limits:
    """The limits of the options, and those of `preset` beside them. Without either, those of `default`.

    Args:
        ms: milliseconds in a unit of --budget_latency.
    """
    from modules.zero_shot.search import Limits

    latency = args.budget_latency and args.budget_latency * ms
    budgets, sizes = [args.budget_model_size, args.budget_flops, latency], from_arguments(SizeLimits, args)
    source = preset or (None if any(budgets) or sizes else default)
    if source:
        kept = source.model_size, source.flops, source.latency
        budgets = [mine if mine is not None else its for mine, its in zip(budgets, kept, strict=True)]
    return Limits(args.max_layers or (preset.layers if preset else space.max_layers), *budgets, args.platform,
                  args.latency_confidence, sizes)


def run_search(args, space: ZenSpace, start: Structure, limits: Limits, *, proxy: str, batch: int,
               random_start: bool) -> None:
    """Search `space` from `start`, with the files in --save_dir; --batch_size wins over `batch`. Errors as of
    `search_in`."""
    from modules.zero_shot.published.flags import choose_gpu
    from modules.zero_shot.scoring import check_proxy
    from modules.zero_shot.search import ZenSearch, search_in

    print(f"limits: {limits}")
    search = ZenSearch(
        space, start, limits, proxy=check_proxy(proxy), batch=args.batch_size or batch,
        classes=args.num_classes or space.classes, resolution=args.input_image_size or space.resolution,
        population_size=args.population_size, seed=args.seed, measure=args.measure_best, random_start=random_start,
        children=args.children, workers=args.workers, device=choose_gpu(args))
    for name in ("platform", "measure_best") if limits.latency is None else ():
        if getattr(args, name):
            say(f"--{name} has no effect without a limit of latency (--budget_latency)")
    search_in(args.save_dir, search, args.evolution_max_iter, args.max_evaluations, resume=args.resume,
              overwrite=args.overwrite)
