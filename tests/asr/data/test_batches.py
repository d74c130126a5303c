import itertools
import json
import random

import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr.data.batches import (
    SpeechDataset,
    TrainingSampler,
    collate,
    make_batches,
    split_trainable,
    write_excluded,
)
from asr.data.manifest import Utterance, read_manifest
from asr.data.nonspeech import NonSpeech
from asr.data.tokenizer import Tokenizer, train_tokenizer
from asr.errors import UserError
from asr.model.frames import Framing

durations = st.lists(st.floats(0.1, 30), min_size=1, max_size=60)


@given(durations=durations, seconds=st.floats(1, 100), seed=st.none() | st.integers(0, 99))
def test_batches_hold_everything_once_and_no_more_than_the_budget(durations, seconds, seed):
    batches = make_batches(durations, seconds, None if seed is None else random.Random(seed))
    assert sorted(itertools.chain(*batches)) == list(range(len(durations)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(durations[i] for i in batch) <= seconds


@given(durations=durations, start=st.integers(0, 100))
def test_sampler_goes_on_where_it_is_told_to_start(durations, start):
    whole, rest = (TrainingSampler(durations, 40, seed=7) for _ in range(2))
    rest.start_at(start)
    expected = list(itertools.islice(whole, start, start + 20))
    assert list(itertools.islice(rest, 20)) == expected


@pytest.mark.parametrize("processes", [2, 4])
def test_a_step_has_the_same_batches_on_any_number_of_processes(monkeypatch, processes):
    """With as many fewer accumulated ones on each, as --training.step_seconds makes it."""
    durations, a_step, steps = [1.0 + n % 13 for n in range(90)], 8, 3
    alone = list(itertools.islice(TrainingSampler(durations, 40, seed=7), a_step * steps))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: processes)
    share, shares = a_step // processes, []
    for rank in range(processes):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        shares.append(list(itertools.islice(TrainingSampler(durations, 40, seed=7), share * steps)))
    for step in range(steps):
        together = itertools.chain(*(own[step * share : (step + 1) * share] for own in shares))
        assert sorted(together) == sorted(alone[step * a_step : (step + 1) * a_step])


@given(durations=durations, share=st.floats(0, 0.5), start=st.integers(0, 30))
def test_clips_without_speech_come_beside_all_speech_and_are_others_in_every_epoch(durations, share, start):
    clips = NonSpeech(durations, share, seed=7)
    whole, rest = (TrainingSampler(durations, 40, 7, clips) for _ in range(2))
    speech, heard = len(durations), []
    for number in range(3):
        batches = whole.epoch(number)
        indices = sorted(itertools.chain(*batches))
        assert indices[:speech] == list(range(speech))
        assert all(min(batch) < speech for batch in batches)  # a loss a piece wants pieces
        heard += indices[speech:]
    assert len(set(heard)) == len(heard) <= 3 * clips.an_epoch
    rest.start_at(start)
    assert list(itertools.islice(rest, 9)) == list(itertools.islice(whole, start, start + 9))


def test_without_a_share_of_clips_the_batches_are_those_of_before():
    durations = [0.5 + number % 13 for number in range(60)]
    none = NonSpeech(durations, 0.0, seed=7)
    with_none, plain = TrainingSampler(durations, 40, 7, none), TrainingSampler(durations, 40, 7)
    assert with_none.epoch(3) == plain.epoch(3)


@given(
    durations=durations,
    parts=st.lists(st.integers(0, 50), min_size=1, max_size=4),
    ahead=st.integers(0, 9),
)
def test_a_place_in_the_data_is_found_again_without_building_earlier_epochs(durations, parts, ahead):
    """After any number of interruptions, and though workers drew batches ahead of those trained on."""
    whole = TrainingSampler(durations, 40, seed=7)
    done, place = 0, None
    for part in parts:
        sampler = BuiltEpochs(durations, 40, seed=7)
        sampler.start_at(done, place)
        list(itertools.islice(sampler, part + ahead))
        assert place is None or sampler.built in ([], list(range(place[0], place[0] + len(sampler.built))))
        done += part
        place = sampler.place(done)
    sampler = BuiltEpochs(durations, 40, seed=7)
    sampler.start_at(done, place)
    assert list(itertools.islice(sampler, 20)) == list(itertools.islice(whole, done, done + 20))


class BuiltEpochs(TrainingSampler):
    """Notes which epochs it builds."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.built = []

    def epoch(self, number):
        self.built.append(number)
        return super().epoch(number)


def test_epochs_differ_and_seeds_differ():
    durations = [1.0 + 0.01 * i for i in range(100)]
    sampler = TrainingSampler(durations, 10, seed=1)
    assert sampler.epoch(0) == sampler.epoch(0)
    assert sampler.epoch(0) != sampler.epoch(1)
    assert sampler.epoch(0) != TrainingSampler(durations, 10, seed=2).epoch(0)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(train_tokenizer(["AB BA ABBA BAB"] * 4, 8, "char"))


def utterance(id: str, duration: float, text: str) -> Utterance:
    return Utterance(id, f"/{id}.wav", duration, text, "s")


def test_what_cannot_be_trained_on_is_told_by_cause(tokenizer, tmp_path):
    items = [
        utterance("good", 2.0, "AB BA"),
        utterance("long", 30.0, "AB"),
        utterance("empty", 1.0, "  "),
        utterance("crowded", 0.3, "ABBA BAB ABBA"),
        utterance("strange", 2.0, "ab ba"),
    ]
    kept, excluded = split_trainable(items, tokenizer, Framing(), max_seconds=20, fastest=1.1)
    assert [item.id for item in kept] == ["good"]
    assert {item.id: item.cause for item in excluded} == {
        "long": "too long",
        "empty": "empty text",
        "crowded": "more tokens than frames",
        "strange": "letters that the tokenizer lacks",
    }
    told = write_excluded(tmp_path / "excluded.jsonl", excluded)
    assert told == "1 empty text, 1 letters that the tokenizer lacks, 1 more tokens than frames, 1 too long"
    lines = (tmp_path / "excluded.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["long", "empty", "crowded", "strange"]


@pytest.mark.parametrize(
    ("transcripts", "left_out"),
    [
        ("needed", {"long", "empty", "blank", "silent and long", "crowded", "strange"}),
        ("welcome", {"long", "silent and long", "crowded", "strange"}),
        ("unread", {"long", "silent and long"}),
    ],
)
def test_an_utterance_without_a_word_is_kept_where_there_is_more_than_transcripts(
    tokenizer, transcripts, left_out
):
    items = [
        utterance("good", 2.0, "AB BA"),
        utterance("long", 30.0, "AB"),
        utterance("empty", 1.0, ""),
        utterance("blank", 1.0, " \u2028"),
        utterance("silent and long", 30.0, ""),
        utterance("crowded", 0.3, "ABBA BAB ABBA"),
        utterance("strange", 2.0, "ab ba"),
    ]
    excluded = split_trainable(items, tokenizer, Framing(), 20, 1.1, transcripts)[1]
    assert {item.id for item in excluded} == left_out


def test_a_text_without_a_word_is_no_transcript(tokenizer, tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, torch.zeros(3200).numpy(), 16_000)
    items = [Utterance(text, str(path), 0.2, text, "s") for text in ("", "  ", "\u2028", "AB")]
    batch = collate([SpeechDataset(items, tokenizer)[index] for index in range(4)])
    assert batch.target_lengths.tolist() == [0, 0, 0, len(tokenizer.encode("AB"))]
    assert batch.transcribed.tolist() == [False, False, False, True]
    assert collate([SpeechDataset(items, tokenizer)[3]]).transcribed is None


def test_longer_frames_leave_more_utterances_out(tokenizer):
    """1 s has 97 features: 25 frames of 40 ms, or 13 of 80 ms."""
    items = [utterance("twenty", 1.0, "AB" * 10)]
    for framing, trainable in ((Framing(factor=4), True), (Framing(factor=8), False)):
        kept, excluded = split_trainable(items, tokenizer, framing, max_seconds=20, fastest=1.0)
        assert bool(kept) == trainable
        assert [item.cause for item in excluded] == ([] if trainable else ["more tokens than frames"])


def test_batches_are_padded_with_zeros(tokenizer, tmp_path):
    utterances = []
    for name, samples, text in (("a", 3000, "AB"), ("b", 5000, "ABBA")):
        path = tmp_path / f"{name}.wav"
        soundfile.write(path, torch.full((samples,), 0.5).numpy(), 16_000)
        utterances.append(Utterance(name, str(path), samples / 16_000, text, "s"))
    dataset = SpeechDataset(utterances, tokenizer)
    batch = collate([dataset[0], dataset[1]])
    assert batch.waveforms.shape == (2, 5000) and batch.lengths.tolist() == [3000, 5000]
    assert (batch.waveforms[0, 3000:] == 0).all() and batch.waveforms[0, :3000].min() > 0.49
    assert batch.targets[0, : batch.target_lengths[0]].tolist() == tokenizer.encode("AB")
    assert batch.seconds == pytest.approx(0.5)
    moved = batch.to("meta")
    assert moved.waveforms.is_meta and moved.targets.is_meta
    assert moved.seconds == batch.seconds and moved.target_lengths is batch.target_lengths


def test_a_manifest_that_lies_about_a_duration_is_named(tokenizer, tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, torch.zeros(8000).numpy(), 16_000)
    dataset = SpeechDataset([Utterance("a", str(path), 9.0, "AB", "s")], tokenizer)
    with pytest.raises(UserError, match=r"a\.wav: 0\.50 s long, but 9\.00 s in its manifest"):
        dataset[0]


def test_a_clip_is_an_utterance_without_text(corpus):
    utterances = read_manifest(corpus / "dev.jsonl")
    clips = NonSpeech([item.duration for item in utterances], 0.5, seed=1)
    dataset = SpeechDataset(utterances, Tokenizer.load(corpus / "tokenizer.model"), clips)
    batch = collate([dataset[0], dataset[len(utterances) + 3]])
    assert batch.texts == [utterances[0].text, ""] and batch.target_lengths.tolist()[1] == 0
    samples = torch.from_numpy(clips.samples(3)) / 32768
    assert torch.equal(batch.waveforms[1, : batch.lengths[1]], samples)
