"""python -m asr.lm: see build.py."""

from asr.errors import run_program
from asr.lm.build import main

run_program(main)
