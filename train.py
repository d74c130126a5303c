"""Train a model: python train.py --config recipes/NAME/conformer_s.yaml --attention mala --out exp/NAME

Every option of --help can stand in the YAML file. They are taken in order: those behind --config override it.
"""

from asr.errors import run_program
from asr.training.config import parse_config
from asr.training.run import train

if __name__ == "__main__":
    run_program(lambda: train(parse_config()))
