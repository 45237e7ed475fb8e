"""The body of the published training programs, after their flags are read."""
from __future__ import annotations

from pathlib import Path

from modules.modeling.restore import load_supernet
from modules.modeling.zen_weights import to_published
from modules.search_space.networks import find_structure
from modules.search_space.reference import Network
from modules.training.trainer import SupernetTrainer
from modules.utils import dist
from modules.utils.checkpoint import save_checkpoint
from modules.zero_shot.published.flags import choose_gpu, given_network, training_config


def train_published(args, published_name: str) -> None:
    """Train as the flags say; the best weights of a Zen structure also go to `published_name` in `--save_dir`."""
    network = given_network(args)
    config = training_config(args, network)
    choose_gpu(args)
    device = dist.init_distributed(args.local_rank, "cpu" if args.dist_mode == "cpu" else "")
    trainer = SupernetTrainer(config, network.space, quant_mode=args.quant_mode,
                              resume=args.resume or args.auto_resume, overwrite=args.overwrite, device=device,
                              option="--save_dir")
    trainer.run()
    if dist.rank() == 0:
        print(f"trained {network}: {trainer.path}, top-1 {trainer.best:.2f}%")
        if not args.quant_mode:
            write_published(trainer.folder, network, Path(args.save_dir) / published_name)
    dist.close()


def write_published(folder: Path, network: Network, target: Path) -> None:
    """The best weights in `folder` under the published names, if the network is of a Zen structure."""
    structure = find_structure(network.space.superspace)
    best = next((path for path in (folder / "checkpoint_best.pth", folder / "checkpoint.pth") if path.is_file()), None)
    if structure and best:
        model, _ = load_supernet(best, network.space, False)
        save_checkpoint(target, {"state_dict": to_published(model, structure)})
        print(f"published form: {target}")
