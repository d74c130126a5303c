import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr.data.batches import SpeechDataset, collate, read_samples
from asr.data.joining import PAUSE, Joined, join_samples, join_utterances
from asr.data.manifest import Utterance
from asr.data.tokenizer import Tokenizer, train_tokenizer
from asr.model.frames import SAMPLE_RATE
from asr.model.frontend import Frontend, FrontendConfig


def utterance(number: int, seconds: float, text: str = "AB") -> Utterance:
    return Utterance(f"u{number}", f"{number}.wav", seconds, text, "s")


@given(durations=st.lists(st.floats(0.1, 30), min_size=1, max_size=60), seconds=st.floats(0.5, 200))
def test_everything_is_joined_once_in_order_and_to_no_more_than_the_length(durations, seconds):
    utterances = [utterance(number, duration) for number, duration in enumerate(durations)]
    joined = join_utterances(utterances, seconds)
    parts = [part for item in joined for part in (item.parts if isinstance(item, Joined) else [item])]
    assert parts == utterances
    assert all(item.duration <= seconds for item in joined if isinstance(item, Joined))
    assert joined == join_utterances(utterances, seconds)
    assert len({item.id for item in joined}) == len(joined)


def test_short_ones_and_long_ones_come_out():
    durations = [item.duration for item in join_utterances([utterance(n, 2.0) for n in range(3000)], 60.0)]
    counts, _ = np.histogram(durations, [0, 15, 30, 45, 60])
    assert counts.min() > 0.6 * counts.max()


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_samples_lie_in_order_with_pauses_between(dtype):
    rng = np.random.default_rng(0)
    parts = [(3000 * rng.normal(size=n)).astype(dtype) for n in (8000, 1, 30, 9000)]
    joined = join_samples(parts, 0.1)
    assert joined.dtype == dtype and len(joined) == sum(map(len, parts)) + 3 * 1600
    place = 0
    for part in parts:
        assert np.array_equal(joined[place : place + len(part)], part)
        place += len(part) + 1600


def test_packed_samples_among_others_are_brought_to_their_scale():
    joined = join_samples([np.full(99, 16384, np.int16), np.full(99, 0.5, np.float32)])
    assert joined.dtype == np.float32 and np.allclose(joined[:99], 0.5) and np.allclose(joined[-99:], 0.5)


def test_a_pause_has_the_background_of_its_neighbours():
    """In log-mel features it lies where they do: silence of zeros lies far below."""
    rng = np.random.default_rng(0)
    parts = [(level * rng.normal(size=16_000)).astype(np.float32) for level in (1e-3, 3e-3)]
    frontend = Frontend(FrontendConfig())
    levels = [frontend.log_mel(torch.from_numpy(part)[None]).mean().item() for part in parts]
    joined = torch.from_numpy(join_samples(parts, 0.5))
    pause = frontend.log_mel(joined[None, 16_000 + 400 : 24_000 - 400]).mean(-1)
    assert levels[0] - 0.7 < pause.min() and pause.max() < levels[1] + 0.7


def test_joined_utterances_make_a_batch(tmp_path):
    utterances = []
    for number, seconds in enumerate((0.5, 0.25)):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, np.full(round(seconds * SAMPLE_RATE), 0.1 * (1 + number)), SAMPLE_RATE)
        utterances.append(Utterance(str(number), str(path), seconds, ("AB BA", "BB")[number], "s"))
    tokenizer = Tokenizer(train_tokenizer(["AB BA", "BB AB"] * 9, 8))
    joined = Joined(tuple(utterances))
    batch = collate([SpeechDataset([joined], tokenizer)[0]])
    assert batch.texts == ["AB BA BB"] and batch.ids == ["0+1"]
    assert batch.lengths.item() == round(joined.duration * SAMPLE_RATE) == (0.75 + PAUSE) * SAMPLE_RATE
    assert tokenizer.decode(batch.targets[0].tolist()) == "AB BA BB"
    assert np.array_equal(batch.waveforms[0, :8000], read_samples(utterances[0]))
