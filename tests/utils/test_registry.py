"""Registration of values under names, and look-ups."""
from pathlib import Path

import pytest

from modules.block_kd.teacher import get_available_teachers
from modules.latency import get_available_platforms, get_platform
from modules.modeling.spec import BlockArgs, build_block, get_available_blocks
from modules.search_space import get_available_superspaces
from modules.utils.errors import UserError
from modules.utils.registry import Registry
from modules.zero_shot import scoring  # noqa: F401  it brings all proxies
from modules.zero_shot.proxies import get_available_proxies, get_proxy


def test_registers_by_decorator_and_by_value():
    things = Registry("thing (--thing)")

    @things.register("first")
    def first():
        return 1

    assert things.add("second", 0) == 0
    things.add("hidden", 3, listed=False)
    assert first() == things["first"]() == 1
    assert (things["second"], things["hidden"]) == (0, 3)
    assert things.names() == ["first", "second"]
    assert things.names("*s*t") == ["first"]
    assert list(things) == ["first", "second", "hidden"]
    assert "first" in things
    assert "third" not in things
    with pytest.raises(UserError, match=r"^unknown thing \(--thing\) 'third'; allowed: first, second, hidden$"):
        things["third"]
    with pytest.raises(ValueError, match="'first' is registered already"):
        things.add("first", 2)


def test_sources_are_asked_after_what_is_registered(tmp_path):
    files = Registry("file")
    files.add("a", Path("own"))
    files.add_source(lambda name: path if (path := tmp_path / name).is_file() else None,
                     lambda: sorted(path.name for path in tmp_path.iterdir()))
    files.add_source(lambda name: Path(name[4:]) if name.startswith("url:") else None, form="url:NAME")
    (tmp_path / "a").touch()
    (tmp_path / "b").touch()
    assert files.names() == ["a", "b"]
    assert (files["a"], files["b"], files["url:x"]) == (Path("own"), tmp_path / "b", Path("x"))
    with pytest.raises(UserError, match="unknown file 'c'; allowed: a, b, url:NAME"):
        files.check("c")


def test_every_registry_of_the_project_lists_with_wildcards():
    assert get_available_teachers("efficientnet-b*")[0] == "efficientnet-b0"
    assert sorted(get_available_blocks("*K3Res")) == ["MobileNetV2K3Res", "MobileNetV3K3Res"]
    assert get_available_superspaces("onnxw*") == ["onnxw", "onnxw_tiny"]
    assert "tflite27_cpu_int8" in get_available_platforms("tflite*")
    assert get_available_proxies("Z*") == ["Zen", "ZiCo"]
    assert get_available_proxies("z*") == []


@pytest.mark.parametrize(("call", "words"), [
    (lambda: get_platform("nn_meter:"), ["platform 'nn_meter:'", "onnx_lut", "nn_meter:NAME"]),
    (lambda: get_platform("pixel"), ["platform 'pixel'", "tflite27_cpu_int8"]),
    (lambda: build_block(BlockArgs("ResNext", 8, 8)), ["block type 'ResNext'", "ResNetSE"]),
    (lambda: get_proxy("zen"), ["proxy 'zen'", "Zen, NASWOT"])])
def test_unknown_names_are_answered_with_the_known_ones(call, words):
    with pytest.raises(UserError) as caught:
        call()
    assert all(word in str(caught.value) for word in words)
