"""What tests of programs and recipes share."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
TINY = (
    "--encoder.dim 16 --encoder.layers 1 --encoder.heads 2 --encoder.kernel 3 "
    "--training.steps 4 --training.validate_every 2 --training.warmup 1"
).split()


def bash(*command, **options):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", *map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True, **options
    )
