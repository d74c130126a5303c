"""Decode splits and report WER, or transcribe recordings.

    python decode.py --checkpoint exp/demo/mala/checkpoints/best.ckpt --data data/demo --splits test \\
        --lm data/demo/3gram.bin --out exp/demo/mala/results
    python decode.py --checkpoint best.ckpt --audio a.flac talks/ list.txt [--lm 3gram.bin]
    python decode.py --checkpoint best.ckpt --audio film.flac --format srt > film.srt
    python decode.py --checkpoint best.ckpt --audio talks/ --format json --out transcripts
    arecord -t raw -f S16_LE -r 16000 -c 1 | python decode.py --checkpoint best.ckpt --stream -

With --lm, LM weight, word score and unknown penalty (and, with a transducer, the weight of its internal LM,
which is subtracted) are tuned on a dev split first, unless they are given. They are never tuned on a split
named test*. Where references or the LM's words are in one case or without punctuation and the model writes
otherwise, its words are scored and looked up as they are written (--case keep: as the model writes them).
With --audio there is nothing to tune on: take the ones in wer.json. Words that the LM does not have can be
recognised; a higher unknown penalty makes them rarer. A hybrid decodes with its transducer, but with --lm,
--words or --n-best with its CTC head, whose search is much faster; --head transducer searches with the other.

--audio takes recordings of any length, sample rate and number of channels (flac wav opus mp3 ...), folders,
lists (a path a line in .txt and .lst files, an id and a path in .scp files, from the list's folder or
else from the current one), and manifests of this recipe, lhotse, NeMo (.jsonl, .jsonl.gz) or Kaldi (a folder
with wav.scp). One that cannot be read is reported, the others are transcribed, and the exit
status is 1. --out DIR writes DIR/NAME.txt (json, srt, vtt) for NAME.flac, or DIR/ID.txt where there is an id;
below a folder that was named, its inner folders are kept. --channel each transcribes the two sides of a
telephone call apart, to DIR/NAME.0.txt and DIR/NAME.1.txt.

--words FILE gives words or phrases to expect, one a line: names, terms. They are found more often, also where
the LM lacks them, and without an LM; the more of them there are, and the higher their boost, the more often
where nobody said them. --n-best N writes N hypotheses of each utterance, not one. --normalise scores what
references and hypotheses have in common whatever their case, punctuation and numbers.

--stream writes words while they are spoken, for as long as anyone speaks, at constant memory: a word is
final once the next begins; on a terminal the last one changes in place, and --format json gives a line a
change. - is standard input: raw 16-bit samples at 16 kHz, one channel, or WAV of these. A pause ends an
utterance: a line of its own, or in JSON its text ("final") with start and end. It wants a model trained with
--frontend.normalise running and --training.chunks. With --lm, beam search goes on from chunk to chunk; give
its weights, or none will be tuned.
"""

from asr.errors import run_program


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, and decode splits, transcribe recordings, or stream."""
    # Not above: every process of beam search runs this file too, and needs neither; --help needs no PyTorch.
    from asr.decoding.options import parse

    args = parse(argv, __doc__)
    from asr.decode import decode

    return decode(args)


if __name__ == "__main__":
    run_program(main)
