"""What is said to options before a recipe's first stage: what the training would say."""

import subprocess
import sys

import pytest

from asr.attention import ATTENTIONS
from asr.errors import UserError
from asr.training.check import check


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("features", [["htk", "new"], ["nemo", "old"]], ids=lambda features: features[0])
def test_what_can_be_trained_is_taken(attention, features):
    kind, edges = features
    options = ["--frontend.kind", kind, *(["--frontend.edges", edges] if kind == "nemo" else [])]
    check(["--out", "x", "--attention", attention, "--head", "hybrid", *options])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--attention", "mala,cosformer", "--training.chunks", "[4]"],
            r"--training\.chunks \[4\]: cosformer cannot work chunk by chunk: ",
        ),
        (
            ["--mala.form", "released", "--training.chunks", "[4]"],
            r"--training\.chunks \[4\]: mala cannot work chunk by chunk: ",
        ),
        (
            ["--mala.form", "eq13", "--mala.forget", "learnt"],
            r"--mala\.forget learnt: only with ",
        ),
        (["--frontend.half_life", "3"], r"--frontend\.half_life 3: wants --frontend\.normalise running"),
        (["--positions", "relative", "--attention", "mala"], r"--positions relative"),
        (["--encoder.heads", "7"], r"heads"),
        (["--training.steps", "0"], r"--training\.steps 0: out of range"),
    ],
)
def test_what_cannot_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        check(["--out", "x", *options])


def test_it_does_not_wait_for_lightning():
    program = "import sys; from asr.training.check import check; check(['--out', 'x']); "
    program += "print('lightning' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
