"""--network of the scripts that handle one network."""
import csv

import numpy as np
import pytest
import yaml

from modules.latency import get_platform
from modules.modeling.complexity import count_net_flops_and_params
from modules.modeling.net_spec import resolve
from modules.modeling.restore import ModelRecord
from modules.modeling.supernet import Supernet
from modules.runtime.ort import open_session
from modules.search_space.reference import read_network
from modules.training.config import TrainConfig
from modules.training.subnet_evaluator import SubnetEvaluator
from modules.utils.checkpoint import save_checkpoint
from modules.utils.errors import UserError
from modules.utils.files import REPOSITORY
from modules.utils.settings import settings_of

STRUCTURE = "SuperConvK3BNRELU(3,8,2,1)SuperResIDWE2K3(8,16,2,8,1):se_r32"


@pytest.fixture
def scripts(monkeypatch):
    for folder in ("", "onnx_tools"):
        monkeypatch.syspath_prepend(str(REPOSITORY / folder))
    monkeypatch.chdir(REPOSITORY)


def test_latency_of_any_network_is_the_platform_s(scripts, tmp_path, capsys):
    import eval_supernet

    names = ["SEQnet@vnni-A0", "resnet20:0.5", STRUCTURE]
    eval_supernet.main(["--network", *names, "--mode", "lat", "--platform", "onnx_lut", "--output", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    for name, line in zip(names, lines, strict=True):
        network = read_network(name)
        expected = get_platform("onnx_lut").predict_subnet(resolve(network.space, network.subnet))
        assert line.startswith(f"{network} ")
        assert float(line.split()[-1].strip("~ms")) == pytest.approx(expected, abs=0.006)
    with open(tmp_path / "predicted_latency.csv") as file:
        assert len(list(csv.DictReader(file))) == len(names)


def test_latency_at_each_resolution_asked_for_and_of_each_network_once(scripts, tmp_path, capsys):
    import eval_supernet

    eval_supernet.main(["--network", "resnet20", "resnet20", "--mode", "lat", "--resolutions", "32", "64",
                        "--platform", "onnx_lut", "--output", str(tmp_path)])
    expected = [get_platform("onnx_lut").predict_subnet(resolve(network.space, network.subnet))
                for network in (read_network("resnet20"), read_network("resnet20_r64"))]
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"resnet20 at {pixels} pixels ~{ms:.2f}ms" for pixels, ms in zip((32, 64), expected, strict=True)]


def test_files_of_any_network(scripts, tmp_path, capsys):
    import export_onnx

    export_onnx.main(["--network", "resnet8:0.25_r16", STRUCTURE, "--skip_weights", "--output_dir", str(tmp_path)])
    paths = capsys.readouterr().out.splitlines()
    assert len(paths) == 4
    for path, side in zip(paths, (16, 16, 32, 32), strict=True):
        session = open_session(path)
        result, = session.run(None, {"input": np.zeros((2, 3, side, side), np.float32)})
        assert result.shape == (2, 1000)


@pytest.mark.parametrize("options", [(), ("--network", "resnet20", "--superspace", "onnxw")])
def test_either_a_network_or_a_superspace(scripts, options):
    import eval_supernet

    with pytest.raises(UserError, match="of --network and --superspace given; expected one"):
        eval_supernet.main(list(options))
    with pytest.raises(UserError, match="without --supernet_choice"):
        eval_supernet.main(["--superspace", "onnxw"])


@pytest.mark.parametrize("quant_mode", [False, True])
def test_every_script_finds_the_same_file(scripts, tmp_path, monkeypatch, quant_mode):
    """Of a published network, a fixed one, a missing file; in each of the folders that may hold it, and in both."""
    import export_onnx

    import downstream_cls
    import eval_specific_net
    import eval_supernet

    class Found(Exception):
        pass

    def found(main, *options):
        with pytest.raises(Found) as error:
            main([*options, *["--quant_mode"] * (quant_mode and main is not downstream_cls.main)])
        return error.value.args[0]

    def stop(path, *_, **__):
        raise Found(str(path))

    monkeypatch.setattr("modules.training.subnet_evaluator.load_supernet", stop)
    monkeypatch.setattr("modules.training.downstream.downstream_config", stop)
    name = "lsq.pth" if quant_mode else "checkpoint.pth"
    named, own = tmp_path / "spaceevo@vnni" / name, tmp_path / "onnxw-151122-023231-align0" / name

    def check(network, resume, expected):
        files = {found(main, "--network", network, "--resume", str(resume))
                 for main in (eval_specific_net.main, eval_supernet.main, export_onnx.main)}
        files.add(found(downstream_cls.main, "--network", network, "--checkpoint_path", str(resume),
                        *[] if quant_mode else ["--fp32"]))
        assert files == {str(expected)}

    check("SEQnet@vnni-A0", tmp_path, named)
    for path, expected in ((own, own), (named, named)):
        path.parent.mkdir()
        path.touch()
        check("SEQnet@vnni-A0", tmp_path, expected)
    check("SEQnet@vnni-A0", "missing.pth", "missing.pth")
    check("resnet20", tmp_path, tmp_path / "resnet20-align0" / name)
    options = ("--superspace", "onnxw", "--supernet_choice", "151122-023231", "--resume", str(tmp_path))
    assert found(eval_supernet.main, *options) == str(own)


@pytest.fixture
def asked(scripts, tmp_path, monkeypatch):
    """A function of the options of train_supernet.py and a yaml's values: space and settings that it would train."""
    import train_supernet

    def run(*options, **values):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
        calls = []
        monkeypatch.setattr("modules.training.trainer.train", lambda config, space, **_: calls.append((space, config)))
        train_supernet.main([*options, "--config-file", str(tmp_path / "config.yaml")])
        return calls[0]

    return run


def test_a_yaml_s_switches_count_in_training(asked):
    defaults = TrainConfig()
    values = {name: not getattr(defaults, name) for name, known in settings_of(TrainConfig).items()
              if known.kind is bool}
    space, config = asked("--superspace", "onnxw_tiny", **values)
    assert str(space) == "onnxw_tiny-322223-000000"
    assert {name: getattr(config, name) for name in values} == values
    assert asked("--superspace", "onnxw_tiny", "--align_sample")[1].align_sample
    assert not asked("--superspace", "onnxw_tiny")[1].align_sample


@pytest.mark.parametrize("options", [(), ("--supernet_choice", "")])
def test_a_fixed_network_as_superspace_needs_no_digits(asked, options):
    """The form in which the pipeline trains its rivals and checkpoints of fixed networks are named."""
    assert str(asked("--superspace", "mobilenet_v2_cifar_x0.15", *options)[0]) == "mobilenet_v2_cifar_x0.15"


@pytest.mark.parametrize(("options", "message"), [
    (["--superspace", "onnxw"], "both of --network and --superspace"),
    (["--supernet_choice", "000000"], "--supernet_choice 000000 with --network"),
    (["--subnet_choice", "d1#1"], "--subnet_choice d1#1 with --network resnet20"),
])
def test_nothing_beside_a_network_is_passed_over_in_training(asked, options, message):
    with pytest.raises(UserError, match=message):
        asked("--network", "resnet20", *options)


def test_nothing_beside_a_network_is_passed_over_in_evaluation():
    import eval_supernet

    with pytest.raises(UserError, match="--subnet_choice beside --network, which names a subnet"):
        eval_supernet.main(["--network", "resnet20", "--mode", "lat", "--subnet_choice", "d1#1"])


def test_a_network_is_trained_at_one_resolution(asked, capsys):
    space, config = asked("--network", "resnet20", resolutions=[32, 48])
    assert config.resolutions == (48,)
    assert capsys.readouterr().err == "note: --network resnet20 is trained at 48 pixels alone, not at 32\n"
    assert asked("--network", "resnet20", "--subnet_choice", config.subnet_choice, resolutions=[48]) == (space, config)


def test_one_network_is_evaluated_as_it_was_trained(scripts, tmp_path, capsys):
    """--network of eval_specific_net.py: the resolution of training counts where the reference has none."""
    import eval_specific_net

    network = read_network("resnet8:0.25_r16")
    path = tmp_path / network.supernet / "checkpoint.pth"
    path.parent.mkdir()
    record = ModelRecord(str(network.space), (16,), tuple("0123456789"), "digits",
                         training={"subnet_choice": str(network.subnet), "augment": "default"})
    save_checkpoint(path, {"state_dict": Supernet(network.space, 10, (16,)).state_dict(), "config": record.to_dict()})
    how = ["--batch_size_per_gpu", "50", "--post_bn_calibration_batch_num", "2", "--data_loader_workers_per_gpu", "0"]
    for resume in (tmp_path, path):
        eval_specific_net.main(["--network", "resnet8:0.25", "--resume", str(resume), *how])
        line = capsys.readouterr().out.splitlines()[-1]
        accuracy = SubnetEvaluator.open(path, network.space, quant_mode=False, batch_size=50, calibration_batches=2
                                   ).accuracy(network.subnet)
        macs, params = count_net_flops_and_params(resolve(network.space, network.subnet, 10))
        assert line == (f"{read_network('resnet8:0.25').name}: acc1={accuracy.top1:.2f}, flops={macs:.2f} "
                        f"params={params:.2f}")
    with pytest.raises(UserError, match=r"resolution 24 .*; allowed: 16"):
        eval_specific_net.main(["--network", "resnet8:0.25_r24", "--resume", str(path), *how])
