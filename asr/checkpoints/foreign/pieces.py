"""Other models' tokenizers as SentencePiece models whose ids stay and whose case is this recipe's.

References and language models here are in LibriSpeech's style, upper case. A model without capitals gets its
pieces in upper case; one that has both, with punctuation, is left as it is.
"""

import json
from typing import Any, Literal

from asr.data.tokenizer import Tokenizer
from asr.errors import UserError

Case = Literal["upper", "keep"]


def adapt(data: bytes, name: str, case: Case = "upper") -> Tokenizer:
    """A SentencePiece model's content to a tokenizer, in upper case if asked for and it has no capitals.

    Raises:
        UserError: it is not one; ``name`` is named.
    """
    model = _parse(data, name)
    normal = [piece for piece in model.pieces if piece.type == piece.NORMAL]
    if case == "upper" and not any(_has_capitals(piece.piece) for piece in normal):
        _to_upper(model)
    return _tokenizer(model.SerializeToString(), name)


def from_vocabulary(data: bytes, name: str, size: int, case: Case = "upper") -> Tokenizer:
    """Hugging Face's tokenizer.json to a tokenizer that decodes, and has no say in how words are spelled.

    Its merges are BPE's even where the model was trained with a unigram model's pieces, which spell words in
    other ways (transformers' converter). So all scores are 0, which marks it: see ``Tokenizer.spells``. Beam
    search takes every spelling, and is not concerned.

    Args:
        data: content of tokenizer.json.
        name: of the file, for errors.
        size: number of pieces, the blank left out.
        case: see ``adapt``.

    Raises:
        UserError: not such a file, or not pieces 0 to size - 1.
    """
    from sentencepiece import sentencepiece_model_pb2  # needs protobuf, which takes a while to import

    pieces, unknown = _vocabulary(data, name, size)
    model = sentencepiece_model_pb2.ModelProto()
    model.trainer_spec.model_type = model.trainer_spec.UNIGRAM
    model.trainer_spec.unk_id = unknown
    model.trainer_spec.bos_id = model.trainer_spec.eos_id = model.trainer_spec.pad_id = -1
    model.trainer_spec.vocab_size = size
    model.normalizer_spec.name = "identity"
    for number, text in enumerate(pieces):
        kind = model.SentencePiece.UNKNOWN if number == unknown else model.SentencePiece.NORMAL
        model.pieces.add(piece=text, score=0.0, type=kind)
    return adapt(model.SerializeToString(), name, case)


def check_vocabulary(tokenizer: Tokenizer, other: Tokenizer, name: str) -> None:
    """Raise UserError, naming ``name``, unless two tokenizers have the same pieces, whatever their case."""
    if tokenizer.pieces != other.pieces or any(
        tokenizer.piece(number).upper() != other.piece(number).upper()
        for number in range(1, tokenizer.pieces + 1)
        if number != tokenizer.unknown
    ):
        raise UserError(f"{name}: not the tokenizer of this model: its pieces are others")


def _parse(data: bytes, name: str):
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise UserError(f"{name}: not a SentencePiece model") from None
    return model


def _has_capitals(text: str) -> bool:
    return text != text.lower()


def _to_upper(model: Any) -> None:
    """Upper-case the pieces in place, unless two would become one."""
    upper = {}
    for number, piece in enumerate(model.pieces):
        upper[number] = piece.piece.upper() if piece.type == piece.NORMAL else piece.piece
    if len(set(upper.values())) < len(upper):
        return
    for number, piece in enumerate(model.pieces):
        piece.piece = upper[number]
    model.normalizer_spec.precompiled_charsmap = b""  # it makes what is encoded lower case
    model.normalizer_spec.name = "identity"


def _tokenizer(data: bytes, name: str) -> Tokenizer:
    try:
        return Tokenizer(data)
    except (RuntimeError, TypeError):
        raise UserError(f"{name}: not a SentencePiece model that can be used") from None


def _vocabulary(data: bytes, name: str, size: int) -> tuple[list[str], int]:
    """Pieces 0 to size - 1, and the number of the unknown one."""
    try:
        content = json.loads(data)
        model = content["model"]
        found = model["vocab"]
        if isinstance(found, list):  # of a unigram model: [piece, score]
            found = {piece: number for number, (piece, _) in enumerate(found)}
        numbers = dict(found) | {item["content"]: item["id"] for item in content.get("added_tokens", [])}
        unknown = model.get("unk_token", model.get("unk_id", "<unk>"))
        unknown = unknown if isinstance(unknown, int) else numbers.get(unknown or "<unk>", 0)
        pieces = {number: piece for piece, number in numbers.items()}
        listed = [pieces[number] for number in range(size)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{name}: not a tokenizer.json with {size} pieces") from None
    if not all(isinstance(piece, str) and piece for piece in listed) or not 0 <= unknown < size:
        raise UserError(f"{name}: not a tokenizer.json with {size} pieces")
    return listed, unknown
