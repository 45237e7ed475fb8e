"""--network of the scripts that handle one network."""
import csv

import numpy as np
import pytest

from modules.latency import get_platform
from modules.modeling.net_spec import resolve
from modules.runtime.ort import open_session
from modules.search_space.reference import read_network
from modules.utils.errors import UserError
from modules.utils.files import REPOSITORY

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
