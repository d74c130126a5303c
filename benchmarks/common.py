"""What every benchmark imports first, so that it measures the code of the checkout that it lies in.

``python benchmarks/NAME.py`` puts this folder on the path, and not the one above it. Packages of this project
would then be those that are installed, which may be of another checkout.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def make_parser(description: str) -> argparse.ArgumentParser:
    """A parser whose --help shows a benchmark's docstring as it is written."""
    return argparse.ArgumentParser(
        prog=f"benchmarks/{Path(sys.argv[0]).name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
