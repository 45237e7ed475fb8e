"""The twelve published ZenNets (Lin et al., 2021) by their names, such as zennet_imagenet1k_flops400M_SE_res224.

Three are for CIFAR, named after their parameters. Three are for ImageNet, named after their multiply-accumulates, and
six after their latency. The names for CIFAR-10 and CIFAR-100 mean one structure. The three with multiply-accumulates
were trained with squeeze-and-excitation; without `_SE` in the name they have none.
"""
from __future__ import annotations

from modules.search_space.networks.rows import register_network
from modules.search_space.networks.structure import Structure

_CIFAR = {
    "size05M": (
        "SuperConvK3BNRELU(3,64,1,1)SuperResK1K5K1(64,168,1,16,3)SuperResK1K3K1(168,80,2,32,4)"
        "SuperResK1K5K1(80,112,2,16,3)SuperResK1K5K1(112,144,1,24,3)SuperResK1K3K1(144,32,2,40,1)"
        "SuperConvK1BNRELU(32,512,1,1)"),
    "size1M": (
        "SuperConvK3BNRELU(3,88,1,1)SuperResK1K7K1(88,120,1,16,1)SuperResK1K7K1(120,192,2,16,3)"
        "SuperResK1K5K1(192,224,1,24,4)SuperResK1K5K1(224,96,2,24,2)SuperResK1K3K1(96,168,2,40,3)"
        "SuperResK1K3K1(168,112,1,48,3)SuperConvK1BNRELU(112,512,1,1)"),
    "size2M": (
        "SuperConvK3BNRELU(3,32,1,1)SuperResK1K5K1(32,120,1,40,1)SuperResK1K5K1(120,176,2,32,3)"
        "SuperResK1K7K1(176,272,1,24,3)SuperResK1K3K1(272,176,1,56,3)SuperResK1K3K1(176,176,1,64,4)"
        "SuperResK1K5K1(176,216,2,40,2)SuperResK1K3K1(216,72,2,56,2)SuperConvK1BNRELU(72,512,1,1)"),
}
_FLOPS = {
    "flops400M": (
        "SuperConvK3BNRELU(3,16,2,1)SuperResIDWE1K7(16,40,2,40,1)SuperResIDWE1K7(40,64,2,64,1)"
        "SuperResIDWE4K7(64,96,2,96,5)SuperResIDWE2K7(96,224,2,224,5)SuperConvK1BNRELU(224,2048,1,1)"),
    "flops600M": (
        "SuperConvK3BNRELU(3,24,2,1)SuperResIDWE1K7(24,48,2,48,1)SuperResIDWE2K7(48,72,2,72,1)"
        "SuperResIDWE6K7(72,96,2,88,5)SuperResIDWE4K7(96,192,2,168,5)SuperConvK1BNRELU(192,2048,1,1)"),
    "flops900M": (
        "SuperConvK3BNRELU(3,16,2,1)SuperResIDWE1K7(16,48,2,72,1)SuperResIDWE2K7(48,72,2,64,3)"
        "SuperResIDWE2K7(72,152,2,144,3)SuperResIDWE2K7(152,360,2,352,4)SuperResIDWE4K7(360,288,1,264,3)"
        "SuperConvK1BNRELU(288,2048,1,1)"),
}
_LATENCY = {
    "latency01ms": (
        "SuperConvK3BNRELU(3,24,2,1)SuperResK3K3(24,32,2,64,1)SuperResK5K5(32,64,2,32,1)"
        "SuperResK5K5(64,168,2,96,1)SuperResK1K5K1(168,320,1,120,1)SuperResK1K5K1(320,640,2,304,3)"
        "SuperResK1K5K1(640,512,1,384,1)SuperConvK1BNRELU(512,2384,1,1)"),
    "latency02ms": (
        "SuperConvK3BNRELU(3,24,2,1)SuperResK1K5K1(24,32,2,32,1)SuperResK1K7K1(32,104,2,64,1)"
        "SuperResK1K5K1(104,512,2,160,1)SuperResK1K5K1(512,344,1,192,1)SuperResK1K5K1(344,688,2,320,4)"
        "SuperResK1K5K1(688,680,1,304,3)SuperConvK1BNRELU(680,2552,1,1)"),
    "latency03ms": (
        "SuperConvK3BNRELU(3,24,2,1)SuperResK1K5K1(24,64,2,32,1)SuperResK1K3K1(64,128,2,128,1)"
        "SuperResK1K7K1(128,432,2,128,1)SuperResK1K5K1(432,272,1,160,1)SuperResK1K5K1(272,848,2,384,4)"
        "SuperResK1K5K1(848,848,1,320,3)SuperResK1K5K1(848,456,1,320,3)SuperConvK1BNRELU(456,6704,1,1)"),
    "latency05ms": (
        "SuperConvK3BNRELU(3,8,2,1)SuperResK1K7K1(8,64,2,32,1)SuperResK1K3K1(64,152,2,128,1)"
        "SuperResK1K5K1(152,640,2,192,4)SuperResK1K5K1(640,640,1,192,2)SuperResK1K5K1(640,1536,2,384,4)"
        "SuperResK1K5K1(1536,816,1,384,3)SuperResK1K5K1(816,816,1,384,3)SuperConvK1BNRELU(816,5304,1,1)"),
    "latency08ms": (
        "SuperConvK3BNRELU(3,16,2,1)SuperResK1K5K1(16,64,2,64,1)SuperResK1K3K1(64,240,2,128,2)"
        "SuperResK1K7K1(240,640,2,160,3)SuperResK1K7K1(640,768,1,192,4)SuperResK1K5K1(768,1536,2,384,5)"
        "SuperResK1K5K1(1536,1536,1,384,3)SuperResK1K5K1(1536,2304,1,384,5)SuperConvK1BNRELU(2304,4912,1,1)"),
    "latency12ms": (
        "SuperConvK3BNRELU(3,32,2,1)SuperResK1K5K1(32,80,2,32,1)SuperResK1K7K1(80,432,2,128,5)"
        "SuperResK1K7K1(432,640,2,192,3)SuperResK1K7K1(640,1008,1,160,5)SuperResK1K7K1(1008,976,1,160,4)"
        "SuperResK1K5K1(976,2304,2,384,5)SuperResK1K5K1(2304,2496,1,384,5)SuperConvK1BNRELU(2496,3072,1,1)"),
}


STRUCTURES: dict[str, Structure] = {}


def _register(name: str, text: str, resolution: int, listed: bool = True) -> None:
    structure = STRUCTURES[name] = Structure.parse(text)
    register_network(name, lambda width: structure.scaled(width).rows(), lambda width: structure.scaled(width).head(),
                     resolution, listed)


for _size, _text in _CIFAR.items():
    _register(f"zennet_cifar_model_{_size}_res32", _text, 32)
    for _classes in (10, 100):
        _register(f"zennet_cifar{_classes}_model_{_size}_res32", _text, 32, listed=False)
for _size, _text in _FLOPS.items():
    _register(f"zennet_imagenet1k_{_size}_SE_res224", f"{_text}:se", 224)
    _register(f"zennet_imagenet1k_{_size}_res224", _text, 224, listed=False)
for _size, _text in _LATENCY.items():
    _register(f"zennet_imagenet1k_{_size}_res224", _text, 224)
