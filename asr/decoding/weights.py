"""What the words of a hypothesis are scored by: a few numbers beside the acoustic model and the LM."""

import math
from typing import NamedTuple


class Weights(NamedTuple):
    """score(words) = ln P_ctc(pieces | audio) + sum of ``of_word`` + lm_weight ln P_lm(</s>), in nats.

    Args:
        lm_weight: factor on the LM's natural logarithm.
        word_score: added for every word.
        unknown_penalty: taken from every word that the LM does not have, which has the LM's score of
            ``<unk>`` (pyctcdecode's ``unk_score_offset``, with the other sign). 50 closes the vocabulary.
        ilm_weight: factor on a transducer's internal LM, which is subtracted (transducer_beam.py).
    """

    lm_weight: float
    word_score: float
    unknown_penalty: float
    ilm_weight: float = 0.0

    @property
    def decimal(self) -> float:
        """Factor on the LM's decimal logarithms, in which KenLM counts."""
        return self.lm_weight * math.log(10)

    def of_word(self, log10: float, unknown: bool) -> float:
        """A word's score, given its decimal logarithm by the LM."""
        return self.decimal * log10 + self.word_score - (self.unknown_penalty if unknown else 0.0)

    def __str__(self) -> str:
        lm_weight, word_score, penalty, ilm_weight = self
        internal = f", ILM weight {ilm_weight:g}" if ilm_weight else ""
        return f"LM weight {lm_weight:g}, word score {word_score:g}, unknown penalty {penalty:g}{internal}"


GREEDY = Weights(0.0, 0.0, 0.0)  # the LM does not count: best path, without a search
