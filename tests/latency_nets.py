"""Networks, blocks and a made-up device for the tests of latency, and programs that stand for ssh and adb."""
import numpy as np

from modules.latency.fitted.block_model import FitSettings
from modules.latency.fitted.features import KERNEL_KINDS, block_kernels
from modules.latency.profile.design import draw_nets
from modules.modeling.net_spec import resolve
from modules.modeling.spec import BlockArgs
from modules.search_space.config import SupernetConfig
from modules.search_space.subnet_space import SubnetSpace
from modules.search_space.superspace import get_superspace

SPACE = SupernetConfig.from_str("onnxw-151122-023231")
SUBNETS = SubnetSpace(SPACE, SPACE.space.resolutions)
TINY = get_superspace("onnxw_tiny")
BLOCK = BlockArgs("MobileNetV2Res", 16, 16, 3, 4, 1, "relu6")
QUICK = FitSettings(kernel_rounds=60, block_rounds=40, leaves=15, folds=2, min_leaf=5)


def nets(count, space=SPACE, subnets=SUBNETS):
    rng = np.random.default_rng(0)
    return [resolve(space, subnets.sample(rng)) for _ in range(count)]


def random_blocks(count, seed=0, kinds=("MobileNetV2Res", "MobileNetV3Res", "ResNet", "FusedMBConvRes"),
                  sizes=(7, 14, 28, 56)):
    """Different blocks with their sizes."""
    rng, found = np.random.default_rng(seed), {}
    while len(found) < count:
        kind, hw = kinds[rng.integers(len(kinds))], int(rng.choice(sizes))
        cin, cout = (int(v) for v in rng.choice((16, 24, 32, 48, 64, 96, 128), 2))
        act = {"MobileNetV2Res": "relu6", "MobileNetV3Res": "hswish"}.get(kind, "relu")
        expand = float(rng.choice((0.5, 1.0, 1.5))) if kind == "ResNet" else float(rng.choice((2, 4)))
        block = BlockArgs(kind, cin, cout, int(rng.choice((3, 5))), expand, int(rng.choice((1, 2))), act)
        found[block, (hw, hw)] = None
    return [b for b, _ in found], [hw for _, hw in found]


def costs(seed):
    """Milliseconds per call, million multiply-accumulates, activations, weights, of each kernel kind."""
    rng = np.random.default_rng(seed)
    return rng.uniform(0.5, 1.5, (len(KERNEL_KINDS), 4)) * (0.01, 0.02, 0.3, 0.2)


def true_ms(blocks, hws, bend=0.0, seed=3):
    """A device on which a block takes the sum of its kernels; `bend` makes a kernel's time depend on its channels."""
    kernels = block_kernels(blocks, hws)
    ms = (kernels.terms() * costs(seed)[kernels.kind]).sum(1)
    return kernels.sum(ms * (1 + bend * np.sin(kernels.rows[:, 6] / 20)))


def draw(count, seed=0, superspace=TINY):
    return draw_nets(superspace, superspace.resolutions, count, np.random.default_rng(seed))
