"""ONNX as a format of exported files."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modules.deploy.graph.graph import Graph
from modules.deploy.graph.normalization import fold_normalization
from modules.deploy.naming import model_path
from modules.deploy.to_onnx.writer import write_onnx
from modules.runtime.ort import optimized_ops
from modules.search_space.config import SubnetChoiceConfig, SupernetConfig


@dataclass(frozen=True)
class OnnxFormat:
    """ONNX files; with `pixels` the first convolution normalises, and the models take bytes."""

    pixels: bool = False

    def path(self, folder: str | Path, space: SupernetConfig, choice: SubnetChoiceConfig, int8: bool) -> Path:
        """The name of a subnet's file."""
        return model_path(folder, space, choice, int8, self.pixels)

    def write(self, graph: Graph, path: Path, metadata: dict[str, str], mean: tuple[float, ...],
              std: tuple[float, ...]) -> None:
        """Write `graph`, which takes images normalised by `mean` and `std`."""
        write_onnx(fold_normalization(graph, mean, std) if self.pixels else graph, path, metadata)

    def operators(self, path: Path) -> dict[str, int]:
        """Number of each operator in the graph that onnxruntime runs."""
        return optimized_ops(path, path.parent)
