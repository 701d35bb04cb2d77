"""Write a page that shows a run: its stages with their scores, times, curves, classes and a gallery of images.

    python -m scripts.report --run runs/demo_l2g                              # whatever stages the run has
    python -m scripts.report --config configs/l2g_voc.yaml [key=value ...]    # the run of a configuration
    python -m scripts.report --run runs/demo_l2g --run runs/demo_plain        # and a comparison, any number of runs
    python -m scripts.report --run runs/exp_voc --deeplab runs/deeplab        # segmentation stage in another folder

Draws the stage cards of the runs. Writes <run>/report/index.html of the first run, with others also a page that compares
them, <run>/report/vs_<name>.html (runs of equal settings but for the seed: one row), and the pictures they show beside them;
the folder can be moved and needs no network. Logs settings and final scores for TensorBoard's HPARAMS tab into <run>/tb.
`--pictures DIR` also writes two small PNGs for a README.
Paths inside the run's own configuration start at the working directory.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.build import load_config
from utils.config import flat_settings
from utils.errors import UserError, run_program
from utils.report.gallery import GalleryLimits

if TYPE_CHECKING:
    from utils.report.run import Run

REPORT = "report"


def main(argv: list[str]) -> None:
    """Parse the command line, write the pages and print their paths."""
    limits = GalleryLimits()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--run", action="append", default=[], metavar="FOLDER", help="a run's folder; further ones are compared"
    )
    parser.add_argument("--config", default="", help="configuration whose run_dir is the (first) run")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides of --config")
    parser.add_argument("--deeplab", default="", metavar="DIR", help="output folder of the segmentation stage of the first run")
    parser.add_argument("--out", default="", metavar="DIR", help="folder of the page; default <run>/report")
    parser.add_argument("--images", type=int, default=limits.shown, help="images in the gallery (default %(default)s; 0: none)")
    parser.add_argument("--scored", type=int, default=limits.scored, help="images they are chosen from (default %(default)s)")
    parser.add_argument(
        "--pictures", default="", metavar="DIR", help="also write scores.png and images.png, small, for a README"
    )
    parser.add_argument("--workers", type=int, default=0, help="processes; 0 is one per core")
    arguments = parser.parse_args(argv)
    runs = _runs(arguments)
    limits = GalleryLimits(arguments.images, max(arguments.images, arguments.scored), arguments.workers)
    for path in run(runs, Path(arguments.out) if arguments.out else None, limits):
        print(f"report: {path}")
    if arguments.pictures:
        from utils.report.tiles import write_pictures

        for path in write_pictures(runs[0], Path(arguments.pictures)):
            print(f"picture: {path}")


def run(runs: "list[Run]", out: Path | None, limits: GalleryLimits) -> list[Path]:
    """Write the first run's report and, of several, their comparison; return the pages. Raises UserError for wrong input."""
    # Here, not above: worker processes import this module too, and draw no figures.
    from utils.report.pages import PAGE, comparison_name, write_comparison, write_report
    from utils.training.journal import log_hparams

    folder = out or runs[0].folder / REPORT
    pages = []
    if len(runs) > 1:
        pages.append(folder / comparison_name(runs))
        write_comparison(runs, pages[0], limits)
    pages.append(folder / PAGE)
    write_report(runs[0], pages[-1], limits)
    for one in runs:
        if one.settings and one.scores():
            log_hparams(one.folder / "tb", one.hyper_parameters(), one.scores())
    return pages[::-1]


def _runs(arguments: argparse.Namespace) -> "list[Run]":
    from utils.report.run import read_run

    if arguments.overrides and not arguments.config:
        raise UserError(f"'{arguments.overrides[0]}' overrides a configuration; give one with --config FILE")
    folders = [Path(folder) for folder in arguments.run]
    settings = None
    if arguments.config:
        config = load_config(arguments.config, arguments.overrides)
        settings = flat_settings(config)
        folders.insert(0, Path(config.run_dir))
    if not folders:
        raise UserError("no run given; add --run FOLDER or --config FILE (see --help)")
    deeplab = Path(arguments.deeplab) if arguments.deeplab else None
    return [read_run(folders[0], deeplab, settings), *(read_run(folder) for folder in folders[1:])]


if __name__ == "__main__":
    run_program(main)
