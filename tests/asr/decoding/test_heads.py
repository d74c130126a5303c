"""The head that decodes, and what each head refuses."""

import pytest

from asr.decoding.heads import choose_head
from asr.errors import UserError
from asr.model.config import ModelConfig


@pytest.mark.parametrize(
    ("head", "options", "chosen"),
    [
        ("ctc", {}, "ctc"),
        ("hybrid", {}, "transducer"),
        ("hybrid", {"with_lm": True}, "ctc"),
        ("hybrid", {"ctc_only": {"chunk_ms": None, "stream": "-"}}, "ctc"),
        ("hybrid", {"with_lm": True, "head": "transducer", "weights": {"ctc_weight": 0.3}}, "transducer"),
        ("transducer", {"with_lm": True, "weights": {"ilm_weight": 0.2}}, "transducer"),
    ],
)
def test_the_head_that_decodes(head, options, chosen):
    assert choose_head(ModelConfig(head=head), **options) == chosen


@pytest.mark.parametrize(
    ("head", "options", "message"),
    [
        ("ctc", {"head": "transducer"}, "--head transducer: the model has none; its head is ctc"),
        ("transducer", {"ctc_only": {"stream": "-"}}, "--stream -: .* yet; leave --stream out"),
        ("hybrid", {"ctc_only": {"chunk_ms": 80}, "head": "transducer"}, "--chunk_ms 80: .*; --head ctc"),
        ("transducer", {"weights": {"ctc_weight": 0.3}}, "--ctc_weight 0.3: the model has no CTC head"),
        ("hybrid", {"with_lm": True, "weights": {"ilm_weight": 0.2}}, "--ilm_weight 0.2: of a transducer's"),
    ],
)
def test_what_a_head_cannot_do_is_refused_by_the_option_s_name(head, options, message):
    with pytest.raises(UserError, match=f"^{message}"):
        choose_head(ModelConfig(head=head), **options, spell="--{}".format)
