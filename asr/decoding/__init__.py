"""From log-probabilities to words."""

BEAM = 100  # hypotheses kept in beam search
TRANSDUCER_BEAM = 8  # by a transducer, whose networks run for each
EXPANSIONS, MOST_EXPANSIONS = 3, 20  # pieces on a frame of a transducer's beam search
MOST_BEAM = 10_000  # takes a gigabyte in each process
PAUSE = 0.8  # seconds without a piece that end an utterance of a stream
FORMATS = ("txt", "json", "ctm", "srt", "vtt")  # of transcripts
