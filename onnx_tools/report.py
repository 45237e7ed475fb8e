"""The cards of exported models as a table and as a figure of accuracy over latency.

    python onnx_tools/report.py checkpoints/models/onnx_model

export_onnx.py and export_tflite.py write cards; benchmark.py adds the latency. Several folders, such as those of
baselines, go into one table: csv, and PNG beside it.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modules.utils.cli import make_parser, run
from modules.utils.settings import option


def main(argv=None):
    parser = make_parser(__doc__)
    option(parser, "folders", ("checkpoints/models/onnx_model",), "folders of exported models", many="*",
           metavar="FOLDER")
    option(parser, "--output", "", "csv file", shown="report.csv in the first folder")
    args = parser.parse_args(argv)

    from modules.deploy.cards.report import plot_cards, read_cards, rows
    from modules.utils.figures import figure_of
    from modules.utils.results import format_table, write_rows

    output = Path(args.output or Path(args.folders[0]) / "report.csv")
    figure, cards = figure_of(output), read_cards(args.folders)
    write_rows(output, rows(cards))
    print(format_table(rows(cards)))
    if any(card["latency"] for card in cards):
        plot_cards(cards, figure)
        print(f"{output}, {figure}")
    else:
        print(f"{output}; no figure: no card holds a latency (benchmark.py adds it)")


if __name__ == "__main__":
    run(main)
