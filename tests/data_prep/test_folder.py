import json
import os
from unicodedata import normalize

import numpy as np
import pytest
import soundfile

from asr.data.audio import load
from asr.data.manifest import Utterance, read_manifest
from asr.data.tokenizer import Tokenizer
from asr.errors import UserError
from data_prep.folder import hold_out, main


def write(path, seconds: float, rate: int = 16_000, channels: int = 1):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.1 * np.random.default_rng(0).normal(size=(round(seconds * rate), channels))
    soundfile.write(path, samples, rate)
    return path


def prepare(tmp_path, *recordings, options=()) -> list:
    out = tmp_path / "data" / "mine.jsonl"
    main(["--recordings", *map(str, recordings), "--out", str(out), "--jobs", "1", *options])
    return read_manifest(out)


def test_folders_files_and_lists_become_utterances_without_text(tmp_path, capsys):
    talks = tmp_path / "talks"
    write(talks / "monday" / "a b.wav", 1.0)
    write(talks / "c.flac", 1.5, rate=44_100, channels=2)
    (tmp_path / "list.txt").write_text(f"{write(tmp_path / 'd.wav', 0.5)}\n")
    found = prepare(tmp_path, talks, tmp_path / "list.txt")
    assert [(item.id, item.text) for item in found] == [("c", ""), ("monday/a_b", ""), ("d", "")]
    assert [item.duration for item in found] == pytest.approx([1.5, 1.0, 0.5])
    for item in found:
        assert item.audio.startswith(str(tmp_path / "data" / "audio" / "mine"))
        assert soundfile.info(item.audio).samplerate == 16_000
    assert "mine: 3 utterances, 0.00 h" in capsys.readouterr().out


def test_a_long_recording_is_cut_into_equal_pieces_that_leave_nothing_out(tmp_path):
    path = write(tmp_path / "talk.wav", 5.3)
    found = prepare(tmp_path, path, options=["--seconds", "2"])
    assert [item.id for item in found] == [f"talk.{number}-of-3" for number in (1, 2, 3)]
    assert [item.duration for item in found] == pytest.approx([5.3 / 3] * 3, abs=2e-4)
    whole = np.concatenate([load(item.audio).numpy() for item in found])
    assert np.array_equal(whole, load(path).numpy())


def test_copies_are_kept_until_the_recording_or_the_cutting_changes(tmp_path):
    path = write(tmp_path / "talk.wav", 3.0)
    (item,) = prepare(tmp_path, path)
    made = (tmp_path / "data" / "audio" / "mine" / "talk.wav").stat().st_mtime_ns
    assert prepare(tmp_path, path) == [item]
    assert (tmp_path / "data" / "audio" / "mine" / "talk.wav").stat().st_mtime_ns == made
    assert len(prepare(tmp_path, path, options=["--seconds", "2"])) == 2
    write(path, 1.0)
    assert prepare(tmp_path, path)[0].duration == 1.0


def test_a_copy_is_of_the_recording_and_part_that_is_asked_for(tmp_path):
    first, other = write(tmp_path / "talk.wav", 3.0), write(tmp_path / "old" / "talk.wav", 2.0)
    os.utime(other, (0, 0))
    assert [prepare(tmp_path, path)[0].duration for path in (first, other)] == [3.0, 2.0]
    for offset in (0.0, 1.0):
        line = {"audio_filepath": str(first), "offset": offset, "duration": 1.0, "text": "HELLO"}
        (tmp_path / "nemo.jsonl").write_text(json.dumps(line) + "\n")
        [item] = prepare(tmp_path, tmp_path / "nemo.jsonl", options=["--transcripts"])
        begin = round(16_000 * offset)
        assert np.allclose(load(item.audio), load(first)[begin : begin + 16_000], atol=1e-4)


def test_what_cannot_be_read_is_refused_or_left_out_and_listed(tmp_path):
    good, bad = write(tmp_path / "good.wav", 1.0), tmp_path / "bad.flac"
    bad.write_bytes(b"fLaC")
    with pytest.raises(UserError, match=r"^1 of 2 utterances cannot be used .* first: .*bad.flac: "):
        prepare(tmp_path, good, bad)
    assert not (tmp_path / "data" / "mine.jsonl").exists()
    assert [item.id for item in prepare(tmp_path, good, bad, options=["--skip-bad"])] == ["good"]
    assert (tmp_path / "data" / "mine.excluded.jsonl").read_text().count('"bad"') == 1
    with pytest.raises(UserError, match="1 of 1 utterances cannot be used"):
        prepare(tmp_path, bad, options=["--skip-bad"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recordings", "{tmp}/a", "{tmp}/b"], "has the same id, talk; rename one"),
        (["--recordings", "{tmp}/a", "--seconds", "0"], "--seconds and --jobs must be 1 or more"),
        (["--recordings", "{tmp}/a", "--out", "{tmp}/x.txt"], "x.txt: must end in .jsonl"),
    ],
)
def test_bad_options_are_one_line(tmp_path, options, message):
    for folder in "ab":
        write(tmp_path / folder / "talk.wav", 0.5)
    with pytest.raises(UserError, match=message):
        main(["--out", str(tmp_path / "x.jsonl"), *(option.format(tmp=tmp_path) for option in options)])
    assert not (tmp_path / "x.jsonl").exists()


def corpus(folder, speakers=5):
    """A recording of each speaker with its transcript beside it, and the same in a table."""
    rows = ["Path,Sentence,client_id"]
    for number in range(speakers):
        path = write(folder / f"s{number}" / "a.wav", 1.0)
        path.with_suffix(".txt").write_text(f"WORD NUMBER\n{'ABCDE'[number]}\n")
        rows.append(f's{number}/a.wav,"WORD NUMBER {"ABCDE"[number]}",ann{number}')
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    head = ",".join(SPEECHBRAIN[name] for name in rows[0].split(","))
    (folder / "speechbrain.csv").write_text("\n".join([head, *rows[1:]]) + "\n")
    return folder


SPEECHBRAIN = {"Path": "wav", "Sentence": "wrd", "client_id": "spk_id"}


@pytest.mark.parametrize(
    "named, speaker", [("own", "unknown"), ("own/table.csv", "ann0"), ("own/speechbrain.csv", "ann0")]
)
def test_a_corpus_with_transcripts_is_one_command_from_training(tmp_path, named, speaker):
    corpus(tmp_path / "own")
    options = ["--transcripts", "--dev", "0.2", "--test", "0.2", "--pieces", "16"]
    found = prepare(tmp_path, tmp_path / named, options=options)
    parts = {name: read_manifest(tmp_path / "data" / f"{name}.jsonl") for name in ("mine", "dev", "test")}
    assert [len(part) for part in parts.values()] == [3, 1, 1] and parts["mine"] == found
    everything = sorted((item for part in parts.values() for item in part), key=lambda item: item.id)
    assert [item.id for item in everything] == [f"s{number}/a" for number in range(5)]
    assert [item.text for item in everything] == [f"WORD NUMBER {letter}" for letter in "ABCDE"]
    assert everything[0].speaker == speaker
    assert Tokenizer.load(tmp_path / "data" / "tokenizer.model").pieces <= 16
    again = prepare(tmp_path, tmp_path / named, options=options)
    assert again == found
    # What was held out is not trained on while its manifest says that it is held out.
    with pytest.raises(UserError, match=r"test\.jsonl: its recordings would be in .*give --test, or"):
        prepare(tmp_path, tmp_path / named, options=options[:3])
    assert read_manifest(tmp_path / "data" / "mine.jsonl") == found
    (tmp_path / "data" / "test.jsonl").unlink()
    assert len(prepare(tmp_path, tmp_path / named, options=options[:3])) == 4


@pytest.mark.parametrize(
    "name, table, texts",
    [
        (
            "a.csv",
            'path,text\nx.wav,"first line\nsecond"\ny.wav,"he said ""no"""\n',
            ["first line second", 'he said "no"'],
        ),
        ("a.tsv", 'path\ttext\r\nx.wav\tone\u2028two\r\ny.wav\t"three\r\n', ["one two", '"three']),
    ],
)
def test_cells_of_a_table_are_whole(tmp_path, name, table, texts):
    for recording in "xy":
        write(tmp_path / f"{recording}.wav", 0.5)
    (tmp_path / name).write_bytes(table.encode())
    found = prepare(tmp_path, tmp_path / name, options=["--transcripts"])
    assert [item.text for item in found] == texts


def test_a_quote_that_is_not_closed_is_named(tmp_path):
    for recording in "xy":
        write(tmp_path / f"{recording}.wav", 0.5)
    (tmp_path / "a.csv").write_text('path,text\nx.wav,"he said ""hi""\ny.wav,all well\n')
    with pytest.raises(UserError, match=r"a\.csv: no table after line 1: unexpected end of data"):
        prepare(tmp_path, tmp_path / "a.csv", options=["--transcripts"])


def test_decomposed_accents_are_spelled_as_in_manifests(tmp_path):
    for number in range(4):
        path = write(tmp_path / "own" / f"{number}.wav", 1.0)
        path.with_suffix(".txt").write_text(normalize("NFD", "élève à vélo déjà vêtu"))
    found = prepare(tmp_path, tmp_path / "own", options=["--transcripts", "--pieces", "24"])
    tokenizer = Tokenizer.load(tmp_path / "data" / "tokenizer.model")
    assert tokenizer.decode(tokenizer.encode(found[0].text)) == normalize("NFC", "élève à vélo déjà vêtu")


def test_held_out_speakers_are_whole():
    items = [Utterance(f"{n}", "", 1.0, "A", f"speaker{n % 7}") for n in range(70)]
    parts = hold_out(items, {"dev": 0.1, "test": 0.2})
    speakers = [{item.speaker for item in part} for part in parts.values()]
    assert [len(found) for found in speakers] == [4, 1, 2] and len(set.union(*speakers)) == 7
    assert hold_out(items, {"dev": 0.0, "test": 0.0})[""] == items


def test_a_manifest_of_others_keeps_its_texts_and_its_parts(tmp_path):
    path = write(tmp_path / "call.wav", 4.0, channels=2)
    line = {"audio_filepath": str(path), "offset": 1.0, "duration": 2.0, "text": "HELLO"}
    (tmp_path / "nemo.jsonl").write_text(json.dumps(line) + "\n")
    [item] = prepare(tmp_path, tmp_path / "nemo.jsonl", options=["--transcripts"])
    assert (item.id, item.text, item.duration) == ("call", "HELLO", 2.0)
    assert np.allclose(load(item.audio), load(path)[16_000:48_000], atol=1e-4)


def test_what_has_no_transcript_is_refused_or_left_out(tmp_path):
    corpus(tmp_path / "own", 2)
    (tmp_path / "own" / "s0" / "a.txt").unlink()
    with pytest.raises(
        UserError, match=r"1 of 2 .*recording without transcript: 1.*no words in a.txt beside"
    ):
        prepare(tmp_path, tmp_path / "own", options=["--transcripts"])
    found = prepare(tmp_path, tmp_path / "own", options=["--transcripts", "--skip-bad"])
    assert [item.id for item in found] == ["s1/a"]
    with pytest.raises(UserError, match=r"too long.*with a transcript it is not cut"):
        write(tmp_path / "own" / "s1" / "a.wav", 3.0)
        prepare(tmp_path, tmp_path / "own/s1", options=["--transcripts", "--seconds", "2"])
    (tmp_path / "bad.csv").write_text("one,two\n1,2\n")
    with pytest.raises(UserError, match=r"bad.csv: its first line names no column path or audio"):
        prepare(tmp_path, tmp_path / "bad.csv", options=["--transcripts"])


@pytest.mark.parametrize("most", ["unknown", "talkative"])
def test_nobody_who_says_much_is_held_out(most):
    for tag in "abcdefghij":
        speakers = [most] * 60 + [f"{tag}{n % 10}" for n in range(30)]
        items = [Utterance(f"{n}", "", 1.0, "A", speaker) for n, speaker in enumerate(speakers)]
        parts = hold_out(items, {"dev": 0.1, "test": 0.1})
        assert all(9 <= len(parts[name]) <= 18 for name in ("dev", "test"))
        assert {item.id for part in parts.values() for item in part} == {item.id for item in items}


def test_where_all_say_much_who_says_least_is_held_out():
    items = [Utterance(f"{n}", "", 1.0, "A", "abcd"[n % 4] if n < 90 else "d") for n in range(100)]
    found = hold_out(items, {"dev": 0.05})["dev"]
    assert len({item.speaker for item in found}) == 1 and len(found) == 22


def test_a_recording_called_like_another_ones_piece_is_named(tmp_path):
    for name, seconds in (("x", 5.0), ("x.1-of-2", 1.0)):
        write(tmp_path / "own" / f"{name}.wav", seconds)
    with pytest.raises(UserError, match=r"has the same id, x\.1-of-2; rename one of the two"):
        prepare(tmp_path, tmp_path / "own", options=["--seconds", "3"])
