"""The code of docs/own_block.md runs: a new block type through training, latency, and ONNX and TFLite files."""
import json
import math
import os
import re
import subprocess
import sys

from modules.utils.files import REPOSITORY

REPORT = """
print(json.dumps({
    "kinds": sorted({block.args.kind for _, block in net.spec.blocks}), "losses": losses.tolist(), "ms": milliseconds,
    "gradients": [bool(p.grad.abs().sum() > 0) for name, p in supernet.named_parameters()
                  if "depth_conv2" in name and name.endswith("conv.weight") and p.grad is not None],
    "int8": all(node.codes is not None for node in graph.nodes if hasattr(node, "codes")),
    "spread": net(images).std(0).min().item(), "agreements": [vars(agreement) for agreement in agreements]}))
"""


def test_a_new_block_type_takes_under_forty_lines(tmp_path):
    """In a process of its own: a registered block stays registered."""
    code = re.findall(r"^```python\n(.*?)^```", (REPOSITORY / "docs" / "own_block.md").read_text(), re.M | re.S)[0]
    assert len([line for line in code.splitlines() if line.strip()]) < 40
    done = subprocess.run([sys.executable, "-c", f"import json\n{code}{REPORT}"], cwd=tmp_path, text=True,
                          capture_output=True, timeout=300,
                          env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert "Sandglass" in report["kinds"]
    assert all(map(math.isfinite, report["losses"]))
    assert len(report["gradients"]) > 5
    assert all(report["gradients"])
    assert 0.1 < report["ms"] < 10
    assert report["int8"]
    assert len(report["agreements"]) == 2
    for agreement in report["agreements"]:  # of the ONNX and of the TFLite file
        assert (agreement["images"], agreement["differing"]) == (16, 0)
        assert agreement["max_logit_error"] < report["spread"] / 20
