"""ResNets for images of 32 pixels (He et al., 2016, section 4.2), with projected shortcuts."""
from __future__ import annotations

from modules.search_space.networks.rows import Row, logits, register_network, scaled

_WIDTHS = (16, 32, 64)


def _resnet(blocks: int):
    def rows(width: float) -> list[Row]:
        body = [Row("ResNetBasic", scaled(channels, width), 3, 1, 2 if i == 0 and stage else 1)
                for stage, channels in enumerate(_WIDTHS) for i in range(blocks)]
        return [Row("Conv", scaled(_WIDTHS[0], width)), *body]
    return rows


def _head(width: float) -> dict[str, Row]:
    return {"feature_mix": Row("Pool", scaled(_WIDTHS[-1], width), 1, act=None), "logits": logits()}


for _blocks in (1, 2, 3, 5):
    register_network(f"resnet{6 * _blocks + 2}", _resnet(_blocks), _head, 32)
