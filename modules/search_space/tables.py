"""The published superspaces and the small one for demos and tests, as tables."""
from __future__ import annotations

from modules.search_space.superspace import Candidate, StageTable, Superspace, register_superspace


def _steps(first: int, last: int, step: int) -> tuple[int, ...]:
    return tuple(range(first, last + 1, step))


def _head(final_expand: int = 1280, feature_mix: int = 1920) -> tuple[StageTable, ...]:
    # The width of the logits is the number of classes; it is known only when a network is built.
    return (StageTable("final_expand", (final_expand,)), StageTable("feature_mix", (feature_mix,)),
            StageTable("logits", (1000,)))


def _fixed(stage0: Candidate | None, head_act: str, feature_mix: str = "FeatureMix") -> dict[str, Candidate]:
    return {
        "first_conv": Candidate("Conv", (3,), (None,), "relu"),
        **({"stage0": stage0} if stage0 else {}),
        "final_expand": Candidate("Conv", (1,), (None,), head_act),
        "feature_mix": Candidate(feature_mix, (1,), (None,), head_act),
        "logits": Candidate("Logits", (1,), (None,), None),
    }


_K35, _K357 = (3, 5), (3, 5, 7)
_MB_MOBILE, _MB_ONNX = (3, 6, 8), (4, 6, 8)
_BOTTLENECK = (0.5, 1.0, 1.5)
_PIXEL4, _VNNI = "tflite27_cpu_int8", "onnx_lut"  # platforms
_MOBILE_STAGE0 = Candidate("MobileNetV2", (3,), (1,), "relu")
_ONNX_STAGE0 = Candidate("ResNet", (3,), (0.5,), "relu")

MOBILEW = Superspace(
    name="mobilew",
    stages=(
        StageTable("first_conv", (16, 24, 32), (1,), 2),
        StageTable("stage0", (16, 24, 32), (1, 2), 1),
        StageTable("stage1", (24, 32, 40), (2, 3, 4), 2, 2),
        StageTable("stage2", _steps(24, 72, 8), (2, 3, 4), 2, 2),
        StageTable("stage3", _steps(56, 112, 8), (2, 3, 4, 5, 6), 2, 3),
        StageTable("stage4", _steps(112, 176, 8), (2, 3, 4, 5, 6, 7, 8), 1, 3),
        StageTable("stage5", (192, 200, 208, 216, 224, 240, 256, 272, 288), (2, 3, 4, 5, 6, 7, 8), 2, 5),
        StageTable("stage6", _steps(216, 360, 16), (1, 2), 1, 7),
        *_head(),
    ),
    fixed=_fixed(_MOBILE_STAGE0, "swish"),
    candidates=(
        Candidate("MobileNetV1Dual", _K357),
        Candidate("MobileNetV2Res", _K357, _MB_MOBILE, "relu6"),
        Candidate("MobileNetV3Res", _K357, _MB_MOBILE, "swish"),
        Candidate("ResNet", _K35, _BOTTLENECK),
        Candidate("FusedMBConvSERes", _K357, (1, 2, 3, 4), "swish"),
        Candidate("MobileNetV3K3Res", _K357, _MB_MOBILE, "swish"),
        Candidate("MobileNetV2K3Res", _K357, _MB_MOBILE, "relu6"),
    ),
    default_platform=_PIXEL4,
)

_ONNXW_CANDIDATES = (
    Candidate("MobileNetV1Dual", _K35),
    Candidate("MobileNetV2Res", _K35, _MB_ONNX, "relu6"),
    Candidate("MobileNetV3Res", _K35, _MB_ONNX, "hswish"),
    Candidate("ResNet", _K357, _BOTTLENECK),
    Candidate("ResNetSE", _K357, _BOTTLENECK),
    Candidate("FusedMBConvRes", _K357, (1, 2, 3, 4), "swish"),
)

ONNXW = Superspace(
    name="onnxw",
    stages=(
        StageTable("first_conv", (16, 32), (1,), 2),
        StageTable("stage0", (16, 32), (1, 2), 1),
        StageTable("stage1", (32, 48, 64), (2, 3, 4), 2, 2),
        StageTable("stage2", _steps(32, 96, 16), (2, 3, 4), 2, 2),
        StageTable("stage3", _steps(64, 144, 16), (2, 3, 4, 5, 6), 2, 3),
        StageTable("stage4", _steps(112, 192, 16), (2, 3, 4, 5, 6), 1, 3),
        StageTable("stage5", _steps(192, 304, 16), (2, 3, 4, 5, 6), 2, 5),
        StageTable("stage6", _steps(304, 448, 16), (1, 2), 1, 7),
        *_head(),
    ),
    fixed=_fixed(_ONNX_STAGE0, "hswish"),
    candidates=_ONNXW_CANDIDATES,
    default_platform=_VNNI,
)


def _mobile_stages(deep: bool) -> tuple[StageTable, ...]:
    depths_45 = (2, 3, 4, 5, 6) if deep else (2, 3, 4)
    return (
        StageTable("first_conv", (32, 40), (1,), 2),
        StageTable("stage0", (16, 24), (1,), 1),
        StageTable("stage1", (24, 32), (2, 3, 4), 2),
        StageTable("stage2", (40, 48, 56), (2, 3, 4), 2),
        StageTable("stage3", _steps(80, 104, 8), (2, 3, 4), 2),
        StageTable("stage4", _steps(96, 128, 8), depths_45, 1),
        StageTable("stage5", _steps(192, 256, 16), depths_45, 2),
        StageTable("stage6", _steps(320, 416, 16), (1, 2) if deep else (2, 3, 4), 1),
        *_head(),
    )


def _onnx_stages() -> tuple[StageTable, ...]:
    return (
        StageTable("first_conv", (16, 32), (1,), 2),
        StageTable("stage0", (16, 32), (1, 2), 1),
        StageTable("stage1", (32, 48), (2, 3), 2),
        StageTable("stage2", (48, 64), (2, 3, 4), 2),
        StageTable("stage3", _steps(80, 128, 16), (2, 3, 4, 5, 6), 2),
        StageTable("stage4", (128, 144), (2, 3, 4, 5, 6), 1),
        StageTable("stage5", _steps(192, 256, 16), (2, 3, 4, 5, 6), 2),
        StageTable("stage6", _steps(320, 432, 16), (1, 2), 1),
        *_head(),
    )


_MOBILE_V1_CANDIDATES = (
    Candidate("MobileNetV1", _K357),
    Candidate("MobileNetV2", _K357, _MB_MOBILE, "relu6"),
    Candidate("MobileNetV3", _K357, _MB_MOBILE, "hswish"),
    Candidate("ResNet", _K35, _BOTTLENECK),
    Candidate("ResNetSE", _K35, _BOTTLENECK),
)

MOBILE_ORIGINAL = Superspace(
    "mobile_original", _mobile_stages(deep=False), _fixed(_MOBILE_STAGE0, "hswish"), _MOBILE_V1_CANDIDATES,
    default_platform=_PIXEL4)

MOBILE_V1 = Superspace(
    "mobile_v1", _mobile_stages(deep=True), _fixed(_MOBILE_STAGE0, "hswish"), _MOBILE_V1_CANDIDATES,
    default_platform=_PIXEL4)

MOBILE_V1_RES = Superspace(
    "mobile_v1_res", _mobile_stages(deep=True), _fixed(_MOBILE_STAGE0, "hswish"),
    (
        Candidate("MobileNetV1", _K357),
        Candidate("MobileNetV2Res", _K357, _MB_MOBILE, "relu6"),
        Candidate("MobileNetV3Res", _K357, _MB_MOBILE, "hswish"),
        Candidate("ResNet", _K35, _BOTTLENECK),
        Candidate("ResNetSE", _K35, _BOTTLENECK),
        Candidate("MobileNetV1Dual", _K357),
        Candidate("ResNetBug", _K35, _BOTTLENECK),
    ), default_platform=_PIXEL4)


def _onnx_candidates(resnet_kernels: tuple[int, ...]) -> tuple[Candidate, ...]:
    return (
        *_ONNXW_CANDIDATES[:3],
        Candidate("ResNet", resnet_kernels, _BOTTLENECK),
        Candidate("ResNetSE", resnet_kernels, _BOTTLENECK),
    )


ONNX = Superspace(
    "onnx", _onnx_stages(), _fixed(_ONNX_STAGE0, "hswish"), _onnx_candidates(_K357), default_platform=_VNNI)

ONNX_V1 = Superspace(
    "onnx_v1", _onnx_stages(), _fixed(_ONNX_STAGE0, "hswish"), _onnx_candidates(_K35), default_platform=_VNNI)

# Not published: every onnxw block type in a network small enough for a laptop CPU. Demo, tests and CI use it.
ONNXW_TINY = Superspace(
    name="onnxw_tiny",
    stages=(
        StageTable("first_conv", (8, 16), (1,), 2),
        StageTable("stage0", (8, 16), (1,), 1),
        StageTable("stage1", (16, 24, 32), (1, 2), 2, 2),
        StageTable("stage2", (24, 32, 40, 48), (1, 2), 2, 2),
        StageTable("stage3", _steps(40, 72, 8), (1, 2), 2, 3),
        StageTable("stage4", _steps(56, 88, 8), (1, 2), 1, 3),
        StageTable("stage5", _steps(96, 144, 16), (1, 2), 2, 3),
        StageTable("stage6", _steps(128, 176, 16), (1,), 1, 3),
        *_head(384, 512),
    ),
    fixed=_fixed(_ONNX_STAGE0, "hswish"),
    candidates=_ONNXW_CANDIDATES,
    resolutions=(32, 48, 64),
    block_kd_resolutions=(48, 64),  # at 32 pixels the last stages end in one pixel
)

# Not published: for images of 24 to 32 pixels. No block works at the full size: there a block costs most and learns
# least. Widths are multiples of 16, for vector units of int8.
CIFARW = Superspace(
    name="cifarw",
    stages=(
        StageTable("first_conv", (16, 32), (1,), 1),
        StageTable("stage1", (16, 32, 48), (1, 2), 2, 2),
        StageTable("stage2", _steps(32, 80, 16), (1, 2), 1, 2),
        StageTable("stage3", _steps(48, 112, 16), (1, 2, 3), 2, 3),
        StageTable("stage4", _steps(64, 128, 16), (1, 2, 3), 1, 3),
        StageTable("stage5", _steps(96, 160, 16), (1, 2, 3), 2, 3),
        StageTable("stage6", _steps(112, 208, 16), (1, 2), 1, 4),
        StageTable("final_expand", (256,)), StageTable("feature_mix", (256,)), StageTable("logits", (1000,)),
    ),
    fixed=_fixed(None, "relu", "Pool"),
    candidates=(
        Candidate("MobileNetV1Dual", _K35),
        Candidate("MobileNetV2Res", _K35, (2, 4, 6), "relu6"),
        Candidate("MobileNetV3Res", _K35, (2, 4, 6), "hswish"),
        Candidate("ResNet", _K35, _BOTTLENECK),
        Candidate("ResNetSE", _K35, _BOTTLENECK),
        Candidate("FusedMBConvRes", _K35, (1, 2, 3), "swish"),
        Candidate("ResNetBasic", (3,), (0.5, 1.0)),
        Candidate("ExtraDWRes", _K35, (2, 4, 6)),
    ),
    resolutions=(24, 28, 32),
    block_kd_resolutions=(24, 32),
)

# Not published: the blocks and strides of cifarw at less than half its widths, for minutes of a laptop CPU.
CIFARW_TINY = Superspace(
    name="cifarw_tiny",
    stages=(
        StageTable("first_conv", (8, 16), (1,), 1),
        StageTable("stage1", (8, 16, 24), (1,), 2, 2),
        StageTable("stage2", _steps(16, 40, 8), (1, 2), 1, 2),
        StageTable("stage3", _steps(24, 48, 8), (1, 2), 2, 2),
        StageTable("stage4", _steps(32, 64, 8), (1, 2), 1, 3),
        StageTable("stage5", _steps(48, 80, 8), (1, 2), 2, 3),
        StageTable("stage6", _steps(64, 96, 8), (1,), 1, 3),
        StageTable("final_expand", (128,)), StageTable("feature_mix", (128,)), StageTable("logits", (1000,)),
    ),
    fixed=CIFARW.fixed,
    candidates=CIFARW.candidates,
    resolutions=(24, 28, 32),
    block_kd_resolutions=(24, 32),
)

# Not published: for images of 24 to 32 pixels within some tenths of a millisecond on a CPU. A network has room for few
# blocks there, as each operator costs microseconds whatever it computes: half the stages of cifarw, wider from the
# start. The stages have cifarw's names, so that the same stages of a teacher fit.
CIFARW_SHORT = Superspace(
    name="cifarw_short",
    stages=(
        StageTable("first_conv", (16,), (1,), 1),
        StageTable("stage1", (24, 32, 48, 64), (1, 2), 2, 2),
        StageTable("stage3", (48, 64, 80, 96), (1, 2), 2, 2),
        StageTable("stage5", (64, 96, 128, 160), (1, 2), 2, 2),
        StageTable("final_expand", (192,)), StageTable("feature_mix", (192,)), StageTable("logits", (1000,)),
    ),
    fixed=CIFARW.fixed,
    candidates=CIFARW.candidates,
    resolutions=(24, 28, 32),
    block_kd_resolutions=(24, 32),
)

for _superspace in (MOBILE_ORIGINAL, MOBILE_V1, MOBILE_V1_RES, MOBILEW, ONNX, ONNX_V1, ONNXW, ONNXW_TINY, CIFARW,
                    CIFARW_TINY, CIFARW_SHORT):
    register_superspace(_superspace)
