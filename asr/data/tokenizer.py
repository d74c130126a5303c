"""SentencePiece tokenizer: text to CTC classes and back.

python -m asr.data.tokenizer --manifest data/demo/train.jsonl --pieces 128 --out data/demo/tokenizer.model
"""

import argparse
import hashlib
import io
from pathlib import Path

import sentencepiece

from asr.data.manifest import read_manifest
from asr.data.style import Style
from asr.errors import UserError, run_program
from asr.files import atomic_write

SPACE = "\u2581"  # SentencePiece's mark of a word's beginning


class Tokenizer:
    """Text to classes 1, 2, ... (class 0 is CTC's blank) and back.

    Args:
        model: a serialised SentencePiece model.
    """

    def __init__(self, model: bytes) -> None:
        self.model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read a model file; raises UserError where it is missing or is not one."""
        path = Path(path)
        if not path.is_file():
            raise UserError(f"{path}: no such tokenizer; make one with python -m asr.data.tokenizer")
        try:
            return cls(path.read_bytes())
        except RuntimeError:
            raise UserError(f"{path}: not a SentencePiece model") from None

    @property
    def pieces(self) -> int:
        """Vocabulary size, without the blank."""
        return self._processor.get_piece_size()

    @property
    def digest(self) -> str:
        """Short fingerprint, to tell two tokenizers apart."""
        return hashlib.sha256(self.model).hexdigest()[:12]

    @property
    def unknown(self) -> int:
        """The class of letters that the training text did not have."""
        return self._processor.unk_id() + 1

    @property
    def spells(self) -> bool:
        """Whether it knows how words are spelled: not if it was imported without its pieces' scores."""
        return any(self._processor.get_score(piece) for piece in range(self.pieces))

    def encode(self, text: str) -> list[int]:
        """Text to classes."""
        return [piece + 1 for piece in self._processor.encode(text)]

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        """``encode`` of many texts, faster."""
        return [[piece + 1 for piece in pieces] for pieces in self._processor.encode(texts)]

    def decode(self, classes: list[int]) -> str:
        """Classes (no blanks) to text, with one space between words however often it is marked."""
        return " ".join(self._processor.decode([number - 1 for number in classes]).split())

    def piece(self, number: int) -> str:
        """The piece of a class."""
        return self._processor.id_to_piece(number - 1)

    def spoken(self, style: Style | None = None) -> list[str | None]:
        """Of every class the letters that it stands for, after ``SPACE`` where it begins a word.

        None for the blank and for what is no text: <unk>, control symbols, bytes, and pieces that go on from
        one word into the next. "" for punctuation that a style leaves out.

        Args:
            style: to write them in; as they are without one.
        """
        processor = self._processor
        none = (processor.is_unknown, processor.is_control, processor.is_unused, processor.is_byte)
        texts: list[str | None] = [None]
        for number in range(self.pieces):
            text = processor.id_to_piece(number).replace(SPACE, " ")
            text = style.apply(text) if style else text
            letters = text.lstrip(" ")
            silent = " " in letters or any(test(number) for test in none)
            texts.append(None if silent else (SPACE if text != letters else "") + letters)
        return texts

    def beyond(self, style: Style) -> str:
        """The first piece that a style writes otherwise, in case or punctuation; "" where there is none."""
        pairs = zip(self.spoken(), self.spoken(style), strict=True)
        return next((text.removeprefix(SPACE) for text, other in pairs if text != other), "")


def train_tokenizer(texts: list[str], pieces: int, kind: str = "unigram") -> bytes:
    """Train SentencePiece on ``texts``; returns the serialised model.

    It has ``pieces`` pieces, or fewer where the text does not support so many.

    Raises:
        UserError: too few pieces for the alphabet, or too many for BPE on this text.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type=kind,
            vocab_size=pieces,
            character_coverage=1.0,
            normalization_rule_name="identity",
            bos_id=-1,
            eos_id=-1,
            # Little text supports few pieces: take what there is. (BPE has no such way.)
            hard_vocab_limit=kind == "bpe",
            minloglevel=2,
        )
    except RuntimeError as error:
        advice = str(error).rpartition(". ")[2] or str(error)
        raise UserError(f"--pieces {pieces} does not suit this text: {advice}") from None
    return model.getvalue()


def main() -> None:
    """Parse the command line and write a tokenizer."""
    parser = argparse.ArgumentParser(
        prog="python -m asr.data.tokenizer", description="Train a SentencePiece tokenizer on manifests."
    )
    parser.add_argument("--manifest", nargs="+", required=True, help="training manifests; their text is used")
    parser.add_argument(
        "--pieces", type=int, default=256, help="vocabulary size (%(default)s); fewer for less text"
    )
    parser.add_argument(
        "--kind",
        choices=("unigram", "bpe", "char"),
        default="unigram",
        help="SentencePiece model type (%(default)s)",
    )
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    args = parser.parse_args()
    texts = [utterance.text for path in args.manifest for utterance in read_manifest(path)]
    tokenizer = Tokenizer(train_tokenizer(texts, args.pieces, args.kind))
    atomic_write(args.out, tokenizer.model)
    count = sum(len(tokenizer.encode(text)) for text in texts)
    words = sum(len(text.split()) for text in texts)
    if tokenizer.pieces != args.pieces:
        print(f"the text supports {tokenizer.pieces} pieces, not --pieces {args.pieces}")
    print(f"{args.out}: {tokenizer.pieces} pieces, {count / max(words, 1):.2f} pieces a word")


if __name__ == "__main__":
    run_program(main)
