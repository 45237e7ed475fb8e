"""MobileNetV2 and MobileNetV3-Large as superspaces: the same tools train, export and measure them.

The first holds only that network (Sandler et al., 2018, table 2). The second holds several networks: its blocks'
expansions differ within a stage. One of them is that of Howard et al., 2019, table 1. Its last layer before the
classifier has a batch norm here instead of a bias.
"""
from __future__ import annotations

from modules.search_space.superspace import Candidate, StageTable, Superspace, register_superspace


def _stage(name: str, width: int, depth: int = 1, stride: int = 1) -> StageTable:
    return StageTable(name, (width,), (depth,), stride)


def _fixed(act: str, stage0_act: str, feature_mix: str) -> dict[str, Candidate]:
    return {
        "first_conv": Candidate("Conv", (3,), (None,), act),
        "stage0": Candidate("MobileNetV2", (3,), (1,), stage0_act),
        "final_expand": Candidate("Conv", (1,), (None,), act),
        "feature_mix": Candidate(feature_mix, (1,), (None,), act),
        "logits": Candidate("Logits", (1,), (None,), None),
    }


# Expand ratio, channels, blocks, stride of stage0, stage1 ...
MOBILENET_V2_ROWS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
                     (6, 320, 1, 1))

MOBILENET_V2 = Superspace(
    "mobilenet_v2",
    (
        _stage("first_conv", 32, stride=2),
        *(_stage(f"stage{i}", channels, blocks, stride)
          for i, (_, channels, blocks, stride) in enumerate(MOBILENET_V2_ROWS)),
        _stage("final_expand", 1280), _stage("feature_mix", 1280), _stage("logits", 1000),
    ),
    _fixed("relu6", "relu6", "Pool"),
    (Candidate("MobileNetV2", (3,), (6,), "relu6"),),
)

MOBILENET_V3 = Superspace(
    "mobilenet_v3",
    (
        _stage("first_conv", 16, stride=2), _stage("stage0", 16),
        _stage("stage1", 24, 2, 2), _stage("stage2", 40, 3, 2), _stage("stage3", 80, 4, 2),
        _stage("stage4", 112, 2), _stage("stage5", 160, 3, 2),
        _stage("final_expand", 960), _stage("feature_mix", 1280), _stage("logits", 1000),
    ),
    _fixed("hswish", "relu", "FeatureMix"),
    (
        Candidate("MobileNetV2", (3,), (3, 4), "relu"),
        Candidate("MobileNetV3", (5,), (3,), "relu"),
        Candidate("MobileNetV2", (3,), (2.3, 2.5, 6), "hswish"),
        Candidate("MobileNetV3", (3,), (6,), "hswish"),
        Candidate("MobileNetV3", (5,), (6,), "hswish"),
    ),
)

# Not listed among the spaces to search.
for _superspace in (MOBILENET_V2, MOBILENET_V3):
    register_superspace(_superspace, listed=False)
