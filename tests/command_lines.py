"""The scripts of the project, for tests of all command lines."""
from modules.utils.files import REPOSITORY

FOLDERS = (".", "onnx_tools", "tflite_tools", "zen_nas", "adj_quant")


def scripts(*folders: str) -> list[str]:
    """Paths of the files in `folders` that are run, not imported."""
    return sorted(str(path.relative_to(REPOSITORY)) for folder in folders for path in (REPOSITORY / folder).glob("*.py")
                  if "run(main)" in path.read_text())
