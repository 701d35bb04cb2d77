"""The published way to call the segmentation stage: python deeplab/main.py train|test|crf|demo --config-path FILE ...

It is `python -m deeplab`, from whatever folder; a FILE that is not there is looked for in the program's.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # instead of this folder, whose file names are no modules of ours
    from deeplab.__main__ import main
    from utils.errors import run_program

    sys.argv[1:] = [
        str(ROOT / a) if a.endswith(".yaml") and not Path(a).exists() and (ROOT / a).exists() else a for a in sys.argv[1:]
    ]
    run_program(main)
