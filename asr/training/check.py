"""What train.py would say to its options, said before anything is done: python -m asr.training.check OPTIONS

A recipe asks before its first stage whether its last but one will be understood.
"""

from collections.abc import Sequence

import torch

from asr.errors import run_program
from asr.model.nemo_frontend import make_frontend
from asr.model.recogniser import make_encoder
from asr.training.config import parse_config
from asr.training.streaming import check_chunks


def check(argv: Sequence[str] | None = None) -> None:
    """Raise UserError, one line, for options with which no training would begin."""
    config = parse_config(argv)
    make_frontend(config.model.frontend)
    with torch.device("meta"):  # which takes neither time nor memory
        encoder = make_encoder(config.model)
    check_chunks(encoder, config.training)


if __name__ == "__main__":
    run_program(check)
