"""TFLite as a format of exported files."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modules.deploy.graph.graph import Graph
from modules.deploy.naming import model_path
from modules.deploy.to_tflite.float_writer import Form
from modules.deploy.to_tflite.writer import write_tflite
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig


@dataclass(frozen=True)
class TfliteFormat:
    """TFLite files of the given `form`; they take normalised images."""

    form: Form | None = None
    pixels = False

    def path(self, folder: str | Path, space: SupernetConfig, choice: SubnetChoiceConfig, int8: bool) -> Path:
        """The name of the ONNX file of the same subnet, but .tflite."""
        return model_path(folder, space, choice, int8).with_suffix(".tflite")

    def write(self, graph: Graph, path: Path, metadata: dict[str, str], mean: tuple[float, ...],
              std: tuple[float, ...]) -> None:
        """Write `graph`; `mean` and `std` go into its metadata only."""
        write_tflite(graph, path, metadata, self.form)

    def operators(self, path: Path) -> None:
        """None: LiteRT only tells the share of XNNPACK."""
