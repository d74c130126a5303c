"""Packed recordings are read as the recordings themselves would be, by everything that reads."""

import dataclasses
import itertools
import json
import math
from collections import Counter
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asr.checkpoints.checkpoint import load_model, read_checkpoint
from asr.data.batches import SpeechDataset, TrainingSampler, collate, make_loader, read_samples
from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.data.packed import quantise, read_packed
from asr.data.tokenizer import Tokenizer, train_tokenizer
from asr.decoding.posteriors import compute_posteriors
from asr.errors import UserError
from asr.model.frontend import Frontend, FrontendConfig
from asr.training.config import parse_config
from asr.training.run import train
from data_prep import pack


def write_packed(folder: Path, contents: list[np.ndarray], files: int = 1) -> list[Utterance]:
    """Pack int16 arrays, dealt out to so many files."""
    utterances = []
    for number, part in enumerate(np.array_split(np.arange(len(contents)), files)):
        path, offset = folder / f"a.{number:05}.pcm", 0
        np.concatenate([contents[index] for index in part]).tofile(path)
        for index in part:
            samples = len(contents[index])
            utterances.append(Utterance(f"u{index}", str(path), samples / 16_000, "AB", "s", offset, samples))
            offset += samples
    return utterances


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-32768, 32767, samples, np.int16, endpoint=True)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(train_tokenizer(["AB BA ABBA BAB"] * 4, 8, "char"))


def test_what_is_written_is_read(tmp_path):
    contents = [noise(1000 + 7 * seed, seed) for seed in range(5)]
    utterances = write_packed(tmp_path, contents, files=2)
    for content, utterance in zip(contents, utterances, strict=True):
        assert np.array_equal(read_samples(utterance), content)
    with pytest.raises(ValueError, match="read-only"):
        read_samples(utterances[0])[0] = 1


@given(samples=st.lists(st.integers(-32768, 32767), min_size=1))
def test_quantising_16_bit_samples_changes_nothing(samples):
    expected = np.array(samples, np.int16)
    assert np.array_equal(quantise(expected.astype(np.float32) / 32768), expected)
    assert quantise(expected) is expected


def test_full_scale_does_not_wrap_round():
    assert quantise(np.array([-1, 1, 0.99999], np.float32)).tolist() == [-32768, 32767, 32767]


def test_more_files_than_may_be_open(tmp_path):
    contents = [noise(160, seed) for seed in range(200)]
    utterances = write_packed(tmp_path, contents, files=200)
    for _ in range(2):
        for content, utterance in zip(contents, utterances, strict=True):
            assert np.array_equal(read_samples(utterance), content)
    assert 0 < Path("/proc/self/maps").read_text().count(str(tmp_path)) <= 64


def test_files_that_cannot_be_used_are_named(tmp_path):
    path = tmp_path / "a.pcm"
    with pytest.raises(UserError, match=r"a\.pcm: no such file of packed recordings; pack the data again"):
        read_packed(str(path), 0, 10)
    for number, samples in enumerate((0, 99)):
        path = tmp_path / f"{number}.pcm"
        noise(samples).tofile(path)
        with pytest.raises(UserError, match=rf"\d\.pcm: holds {samples} samples, .* wants 100; delete it"):
            read_packed(str(path), 90, 10)


def test_a_manifest_that_lies_about_a_packed_duration_is_named(tmp_path):
    (utterance,) = write_packed(tmp_path, [noise(8000)])
    with pytest.raises(UserError, match=r"a\.00000\.pcm: 0\.50 s long, but 9\.00 s in its manifest"):
        read_samples(dataclasses.replace(utterance, duration=9.0))


def test_packed_batches_stay_16_bit_and_mixed_ones_do_not(tokenizer, tmp_path):
    contents = [noise(3000, 1), noise(5000, 2)]
    packed = write_packed(tmp_path, contents)
    soundfile.write(tmp_path / "c.wav", contents[1], 16_000)
    single = Utterance("c", str(tmp_path / "c.wav"), 5000 / 16_000, "AB", "s")
    write_manifest(tmp_path / "a.jsonl", [*packed, single])  # one manifest may hold both kinds
    dataset = SpeechDataset(read_manifest(tmp_path / "a.jsonl"), tokenizer)

    both, mixed = collate([dataset[0], dataset[1]]), collate([dataset[0], dataset[2]])
    assert both.waveforms.dtype == torch.int16 and mixed.waveforms.dtype == torch.float32
    assert both.lengths.tolist() == mixed.lengths.tolist() == [3000, 5000]
    assert (both.waveforms[0, 3000:] == 0).all()
    assert np.array_equal(both.waveforms[1].numpy(), contents[1])
    assert torch.equal(both.waveforms.float() / 32768, mixed.waveforms)

    frontend = Frontend(FrontendConfig())
    for training in (False, True):
        frontend.train(training)
        features = []
        for batch in (both, mixed):
            torch.manual_seed(1)
            features.append(frontend(batch.waveforms, batch.lengths)[0])
        assert torch.equal(*features)


@settings(max_examples=8, deadline=None)
@given(
    counts=st.lists(st.integers(1, 400), min_size=1, max_size=30),
    files=st.integers(1, 4),
    ranks=st.integers(1, 3),
    workers=st.integers(0, 2),
    epoch=st.integers(0, 2),
)
@example(counts=[*range(10, 310, 10)], files=3, ranks=2, workers=2, epoch=1)
def test_every_utterance_of_an_epoch_is_read_once(
    tokenizer, tmp_path_factory, counts, files, ranks, workers, epoch
):
    # Utterance i is 160 (count of i) samples of the value i: what is read tells who was read.
    contents = [np.full(160 * count, index, np.int16) for index, count in enumerate(counts)]
    utterances = write_packed(tmp_path_factory.mktemp("packed"), contents, min(files, len(contents)))
    durations = [utterance.duration for utterance in utterances]
    found = Counter()
    for rank in range(ranks):
        sampler = TrainingSampler(durations, 6.0, seed=3)
        skipped, wanted = sum(len(sampler.epoch(n)) for n in range(epoch)), len(sampler.epoch(epoch))
        sampler.start_at(skipped)
        with mock.patch.multiple(
            torch.distributed,
            is_initialized=lambda: True,
            get_rank=lambda rank=rank: rank,
            get_world_size=lambda: ranks,
        ):
            loader = make_loader(SpeechDataset(utterances, tokenizer), sampler, workers)
            for batch in itertools.islice(loader, math.ceil((wanted - rank) / ranks)):
                for row, length, id in zip(batch.waveforms, batch.lengths, batch.ids, strict=True):
                    found[id, int(row[0]), int(length)] += 1
                    assert (row[:length] == row[0]).all() and (row[length:] == 0).all()
    assert found == {(f"u{i}", i, len(content)): 1 for i, content in enumerate(contents)}


@pytest.fixture(scope="module")
def packed(corpus, tmp_path_factory):
    """The miniature corpus, packed."""
    folder = tmp_path_factory.mktemp("data") / "packed"
    options = ["--data", str(corpus), "--splits", "train", "dev", "test", "--out", str(folder)]
    pack.main([*options, "--jobs", "1", "--shard-hours", "0.01"])
    return folder


def test_training_and_decoding_do_not_notice(corpus, packed, tmp_path):
    found = []
    for name, folder in (("single", corpus), ("packed", packed)):
        out = tmp_path / name
        options = f"--out {out} --data.folder {folder} --data.tokenizer {corpus}/tokenizer.model"
        options += " --encoder.dim 16 --encoder.layers 1 --encoder.heads 2 --encoder.kernel 3"
        options += " --training.steps 4 --training.seconds 20 --training.precision fp32"
        options += " --training.accelerator cpu"
        train(parse_config(options.split()))
        weights = read_checkpoint(out / "checkpoints" / "last.ckpt")["state_dict"]
        model, recipe = load_model(out / "checkpoints" / "last.ckpt")
        test = read_manifest(folder / "test.jsonl")
        # Batches of 2 s: longer recordings go through the model in chunks.
        posteriors = compute_posteriors(model, test, recipe.tokenizer, 2.0, "")
        assert any(item.duration > 2 for item in test)
        found.append((weights, posteriors.log_probs))
    (weights, log_probs), (packed_weights, packed_log_probs) = found
    assert all(torch.equal(value, packed_weights[name]) for name, value in weights.items())
    assert all(map(np.array_equal, log_probs, packed_log_probs))


PACKED = {"id": "1", "audio": "a.pcm", "duration": 1.0, "text": "HI", "speaker": "s"}
PACKED |= {"offset": 5, "samples": 16_000}


def test_manifests_name_the_place_only_where_there_is_one(tmp_path):
    place = Utterance("1", str(tmp_path / "a.pcm"), 1.0, "HI", "s", 5, 16_000)
    single = Utterance("2", str(tmp_path / "b.wav"), 1.0, "HI", "s")
    write_manifest(tmp_path / "a.jsonl", [place, single])
    assert read_manifest(tmp_path / "a.jsonl") == [place, single]
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert lines[0] == PACKED
    assert lines[1].keys() == PACKED.keys() - {"offset", "samples"}


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"offset": None}, "'offset' has the wrong type"),
        ({"offset": True}, "'offset' has the wrong type"),
        ({"samples": 1.5}, "'samples' has the wrong type"),
        ({"offset": -1}, "no samples at offset -1"),
        ({"samples": 0}, "samples 0"),
    ],
)
def test_a_bad_place_is_named(tmp_path, changes, complaint):
    (tmp_path / "a.jsonl").write_text(json.dumps({**PACKED, **changes}) + "\n")
    with pytest.raises(UserError, match=rf"a\.jsonl:1: .*{complaint}"):
        read_manifest(tmp_path / "a.jsonl")


@pytest.mark.parametrize("name", ["offset", "samples"])
def test_half_a_place_is_named(tmp_path, name):
    record = {key: value for key, value in PACKED.items() if key != name}
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(UserError, match=rf"a\.jsonl:1: field '{name}' is missing"):
        read_manifest(tmp_path / "a.jsonl")
