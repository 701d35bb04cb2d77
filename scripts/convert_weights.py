"""Write any weight file this program reads as a plain `.pth` or `.safetensors`.

    python -m scripts.convert_weights models/ilsvrc-cls_rna-a1_cls1000_ep-0001.params models/resnet38.pth
    python -m scripts.convert_weights runs/exp_voc/model/last.pth local.safetensors --network local

IN: MXNet .params (ResNet-38), .pth (state dict or training checkpoint), .safetensors. Keys keep their published names,
without `module.`.
"""

import argparse
from pathlib import Path

from utils.errors import UserError, run_program
from utils.training.weights import NETWORK_KEYS, read_weights, save_weights

FORMATS = (".pth", ".safetensors")


def main(argv: list[str]) -> None:
    """Parse the command line and convert."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="IN", type=Path, help="weight file to read")
    parser.add_argument("target", metavar="OUT", type=Path, help="file to write, .pth or .safetensors")
    parser.add_argument(
        "--network", choices=list(NETWORK_KEYS), default="global", help="part of a training checkpoint (global)"
    )
    arguments = parser.parse_args(argv)
    count = run(arguments.source, arguments.target, arguments.network)
    print(f"{arguments.target}: {count} entries")


def run(source: Path, target: Path, network: str = "global") -> int:
    """Convert one file; return the number of entries written. Raises UserError for what it cannot read or write."""
    if target.suffix not in FORMATS:
        raise UserError(f"{target} ends in '{target.suffix}'; expected one of {', '.join(FORMATS)}")
    state = read_weights(source, network)
    save_weights(state, target)
    return len(state)


if __name__ == "__main__":
    run_program(main)
