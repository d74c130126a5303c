"""From log-probabilities to words."""

BEAM = 100  # hypotheses kept in beam search
MOST_BEAM = 10_000  # takes a gigabyte in each process
