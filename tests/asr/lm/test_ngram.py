"""The estimator against values worked out by hand, a plain second implementation, KenLM and lmplz."""

import math
import random
import shutil
import subprocess
from collections import Counter, defaultdict

import kenlm
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from asr.errors import UserError
from asr.lm import ngram
from asr.lm.external_sort import ExternalSort


def read_arpa(path):
    """{words: (log10 probability, log10 backoff)} of an ARPA file."""
    model = {}
    for line in path.read_text("utf-8").splitlines():
        fields = line.split("\t")
        if len(fields) >= 2:
            backoff = float(fields[2]) if len(fields) == 3 else 0.0
            model[tuple(fields[1].split(" "))] = float(fields[0]), backoff
    return model


def log_prob(model, history, word):
    """log10 p(word | history), backing off as ARPA says."""
    if (*history, word) in model:
        return model[(*history, word)][0]
    if not history:
        return model[("<unk>",)][0]
    return model.get(tuple(history), (0, 0))[1] + log_prob(model, history[1:], word)


def estimate(tmp_path, sentences, order, **options):
    path = tmp_path / "model.arpa"
    counts = ngram.estimate(sentences, order, path, **options)
    assert [p.name for p in tmp_path.iterdir()] == ["model.arpa"], "temporary files were left"
    model = read_arpa(path)
    assert counts == [sum(len(gram) == n for gram in model) for n in range(1, order + 1)]
    return model


def zipf_corpus(sentences=400, words=60, seed=0):
    """Sentences with the count-of-counts of real text, large enough for discounts of their own."""
    rng = random.Random(seed)
    weights = [1 / rank for rank in range(1, words + 1)]
    names = [f"W{i}" for i in range(words)]
    return [" ".join(rng.choices(names, weights, k=rng.randint(0, 9))) for _ in range(sentences)]


def reference(sentences, order, prune=(), vocabulary=None):
    """Modified Kneser-Ney, plainly: dictionaries, one n-gram at a time. {words: (probability, backoff)}."""
    raw = [Counter() for _ in range(order + 1)]
    for sentence in sentences:
        words = ["<s>", *sentence.split(), "</s>"]
        for n in range(1, order + 1):
            raw[n].update(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    del raw[1][("<s>",)]  # never predicted
    allowed = {w for (w,) in raw[1]} if vocabulary is None else set(vocabulary)
    allowed |= {"<s>", "</s>"}
    thresholds = (list(prune) or [0]) + [(list(prune) or [0])[-1]] * order
    adjusted, kept, discounts = {}, {}, {}
    for n in range(1, order + 1):
        left = Counter(gram[1:] for gram in raw[n + 1]) if n < order else Counter()
        adjusted[n] = {
            gram: count if n == order or gram[0] == "<s>" else left[gram] for gram, count in raw[n].items()
        }
        kept[n] = {
            gram
            for gram, count in raw[n].items()
            if gram == ("</s>",) or (count > thresholds[n - 1] and all(w in allowed for w in gram))
        }
        have = Counter(adjusted[n].values())
        n1, n2, n3, n4 = (have[i] for i in range(1, 5))
        discounts[n] = [0.5, 1.0, 1.5]
        if n1 and n2 and n3:
            y = n1 / (n1 + 2 * n2)
            d = [1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
            if all(0 <= d[i] <= i + 1 for i in range(3)):
                discounts[n] = d
    model = {}
    lower = defaultdict(lambda: 1 / (len(kept[1]) + 1))  # order 0: uniform over kept words and <unk>
    for n in range(1, order + 1):
        contexts = defaultdict(list)
        for gram in adjusted[n]:
            contexts[gram[:-1]].append(gram)
        probabilities = {}
        for context, grams in contexts.items():
            total = sum(adjusted[n][g] for g in grams)
            freed = sum(
                discounts[n][min(adjusted[n][g], 3) - 1] if g in kept[n] else adjusted[n][g] for g in grams
            )
            backoff = freed / total
            if n > 1 and context in model:
                model[context] = model[context][0], backoff
            for g in grams:
                a = adjusted[n][g]
                own = (a - discounts[n][min(a, 3) - 1]) / total
                probabilities[g] = own + backoff * lower[g[1:]]
            if n == 1:
                model[("<unk>",)] = backoff * lower[()], 1.0
                model[("<s>",)] = 1.0, 1.0
        model.update({g: (p, 1.0) for g, p in probabilities.items() if g in kept[n]})
        lower = probabilities
    return model


def assert_equal(model, expected):
    assert model.keys() == expected.keys()
    for gram, (probability, backoff) in expected.items():
        assert model[gram][0] == pytest.approx(math.log10(probability), abs=1e-6), gram
        assert model[gram][1] == pytest.approx(math.log10(max(backoff, ngram.LEAST)), abs=1e-6), gram


def test_bigrams_worked_out_by_hand(tmp_path, capsys):
    # Bigrams: <s> A twice; A B, B </s>, A C, C </s> once. None three times: discounts 0.5, 1, 1.5.
    # Words before each word: A, B, C one, </s> two; in all 5. What the discounts set free:
    # (3 * 0.5 + 1) / 5 = 0.5, spread over A B C </s> <unk>: 0.1 each.
    model = estimate(tmp_path, ["A B", "A C"], 2)
    by_hand = {
        ("<unk>",): (0.1, 1),
        ("<s>",): (1, 0.5),  # D2 / 2
        ("</s>",): ((2 - 1) / 5 + 0.1, 1),
        ("A",): ((1 - 0.5) / 5 + 0.1, 0.5),  # (D1 + D1) / 2
        ("B",): (0.2, 0.5),  # D1 / 1
        ("C",): (0.2, 0.5),
        ("<s>", "A"): ((2 - 1) / 2 + 0.5 * 0.2, 1),
        ("A", "B"): ((1 - 0.5) / 2 + 0.5 * 0.2, 1),
        ("A", "C"): (0.35, 1),
        ("B", "</s>"): ((1 - 0.5) / 1 + 0.5 * 0.3, 1),
        ("C", "</s>"): (0.65, 1),
    }
    assert_equal(model, by_hand)
    said = capsys.readouterr().err.strip().splitlines()
    assert [line for line in said if "discounts of order 2: using 0.5, 1, 1.5" in line]


def test_counts_after_the_sentence_start_stay_raw(tmp_path):
    # Words before: A, C and </s> one, B two; in all 5, a half set free, 0.1 each: p(A) = 0.2, p(B) = 0.3.
    # "<s> A" has no word before it and counts 2, "<s> C" 1: p(A | <s>) = (2 - 1) / 3 + (1 + 0.5) / 3 * p(A).
    # "B </s>" follows A and C, so counts 2, not 3: p(</s> | B) = (2 - 1) / 2 + 0.5 * 0.2.
    # "A B" follows <s> only, so counts 1: p(B | A) = 0.5 + 0.5 * 0.3 = 0.65.
    # "<s> A B" counts 2: p(B | <s> A) = (2 - 1) / 2 + 0.5 * 0.65.
    model = estimate(tmp_path, ["A B", "A B", "C B"], 3)
    assert 10 ** model[("<s>", "A")][0] == pytest.approx(1 / 3 + 0.5 * 0.2, abs=1e-6)
    assert 10 ** model[("B", "</s>")][0] == pytest.approx(0.6, abs=1e-6)
    assert 10 ** model[("A", "B")][0] == pytest.approx(0.65, abs=1e-6)
    assert 10 ** model[("<s>", "A", "B")][0] == pytest.approx(0.825, abs=1e-6)


def test_discounts_worked_out_by_hand(capsys):
    # Y = 8 / (8 + 2 * 4) = 0.5; D1 = 1 - 2 Y 4/8, D2 = 2 - 3 Y 2/4, D3+ = 3 - 4 Y 1/2.
    assert ngram._discounts(np.array([9, 8, 4, 2, 1]), 1).tolist() == [0, 0.5, 1.25, 2]
    assert not capsys.readouterr().err
    # Out of range: D2 = 2 - 3 * 0.5 * 40 / 4 is negative.
    assert ngram._discounts(np.array([9, 8, 4, 40, 1]), 1).tolist() == [0, 0.5, 1, 1.5]


WORDS = st.lists(st.sampled_from("ABCDE"), max_size=6).map(" ".join)


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    st.lists(WORDS, min_size=1, max_size=25),
    st.integers(1, 6),
    st.sampled_from([(), (0, 1), (0, 0, 1), (1,)]),
    st.sampled_from([None, "ABC"]),
    st.sampled_from([0.01, 64]),
)
@example(["A A A B B A", "A A A B B A", "A A A B B B"], 3, (), None, 0.01)  # a backoff of 0
def test_equals_the_plain_implementation(tmp_path_factory, text, order, prune, words, memory):
    prune = prune[:order]
    options = {"prune": prune, "vocabulary": words}
    model = estimate(tmp_path_factory.mktemp("m"), text, order, memory=memory, **options)
    assert_equal(model, reference(text, order, prune, words))


@pytest.mark.parametrize("order", [1, 2, 3, 4, 6])
def test_equals_the_plain_implementation_with_estimated_discounts(tmp_path, order, capsys):
    text = zipf_corpus(1000, words=1000)
    assert_equal(estimate(tmp_path, text, order), reference(text, order))
    assert order > 3 or "too little text" not in capsys.readouterr().err


@pytest.mark.parametrize("prune", [(), (0, 0, 1), (0, 1, 2)])
def test_probabilities_of_each_history_sum_to_one(tmp_path, prune):
    model = estimate(tmp_path, zipf_corpus(words=20), 3, prune=prune)
    words = [gram[0] for gram in model if len(gram) == 1 and gram != ("<s>",)]
    histories = [()] + [g for g in model if len(g) < 3 and g[-1] not in ("</s>", "<unk>")]
    for history in histories:
        total = sum(10 ** log_prob(model, history, word) for word in words)
        assert total == pytest.approx(1, abs=1e-5), history


@pytest.mark.parametrize("order", [2, 3, 6])
def test_kenlm_reads_the_same_probabilities(tmp_path, order):
    text = zipf_corpus()
    model = estimate(tmp_path, text, order)
    config = kenlm.Config()
    config.show_progress, config.arpa_complain = False, kenlm.ARPALoadComplain.NONE
    read = kenlm.Model(str(tmp_path / "model.arpa"), config)
    for sentence in [*text[:50], *zipf_corpus(50, seed=1), "W1 NEVER W2 HEARD"]:
        words = ["<s>", *sentence.split(), "</s>"]
        expected = [log_prob(model, words[max(0, i - order + 1) : i], words[i]) for i in range(1, len(words))]
        scores = [score for score, _, _ in read.full_scores(sentence)]
        assert scores == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("order", [2, 3, 5])
def test_spilling_to_disk_changes_nothing(tmp_path, order, monkeypatch):
    text, spilled = zipf_corpus(3000), []
    spill = ExternalSort._spill
    monkeypatch.setattr(ExternalSort, "_spill", lambda self: (spilled.append(self), spill(self)))
    ngram.estimate(text, order, tmp_path / "memory.arpa", memory=2048)
    assert not spilled
    ngram.estimate(text, order, tmp_path / "disk.arpa", memory=0.2)
    assert spilled
    assert (tmp_path / "disk.arpa").read_bytes() == (tmp_path / "memory.arpa").read_bytes()


@settings(deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(0, 3)] * 2), max_size=300),
    st.sampled_from([64, 1500, 10**6]),
    st.booleans(),
)
def test_external_sort(tmp_path_factory, records, memory, combine):
    sorter = ExternalSort(tmp_path_factory.mktemp("s"), "x", 3, 2, memory, combine)
    counts = range(len(records))
    for start in range(0, len(records), 7):
        part = np.array(records[start : start + 7], np.uint64).T
        sorter.add(*part, np.arange(start, start + part.shape[1], dtype=np.uint64))
    blocks = [block.copy() for block in sorter.blocks()]
    got = [tuple(map(int, record)) for block in blocks for record in block.T]
    expected = [(*key, number) for key, number in zip(records, counts, strict=True)]
    if combine:
        sums = Counter()
        for *key, number in expected:
            sums[tuple(key)] += number
        assert got == [(*key, sums[key]) for key in sorted(set(records))]
    else:
        assert [record[:2] for record in got] == sorted(records)
        assert sorted(got) == sorted(expected)


@pytest.mark.parametrize("word", ["NAÏVE", "ДОМ", "家", "A'B"])
def test_words_in_any_script(tmp_path, word):
    assert (word,) in estimate(tmp_path, [f"A {word}"], 2)


@pytest.mark.parametrize(
    ("sentences", "options", "message"),
    [
        ([], {}, "no sentence"),
        (["A <unk> B"], {}, "<unk>"),
        (["A <UNK> B"], {}, "<UNK>"),
        (["A", "<s> B"], {}, "<s>"),
        (["A"], {"order": 7}, "order 7"),
        (["A"], {"order": 0}, "order 0"),
        (["A"], {"prune": (1, 0)}, "prune 1 0"),
        (["A"], {"prune": (0, 0, 0, 0)}, "prune 0 0 0 0"),
        (["A"], {"prune": (-1,)}, "prune -1"),
    ],
)
def test_bad_input_is_refused(tmp_path, sentences, options, message):
    with pytest.raises(UserError, match=message):
        ngram.estimate(sentences, **{"order": 3, "arpa": tmp_path / "m.arpa", **options})
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not shutil.which("lmplz"), reason="KenLM's lmplz is not on the PATH")
@pytest.mark.parametrize(
    ("order", "prune", "words"),
    [(2, (), None), (3, (), None), (4, (), None), (3, (0, 0, 1), None), (3, (), 300), (1, (), None)],
)
def test_equals_lmplz(tmp_path, order, prune, words):
    # lmplz counts the last n-gram of each lower order, in its own numbering of words, by its raw count among
    # the counts of counts. Where the last word to turn up turns up once, that is the adjusted count too.
    text = [*zipf_corpus(2000, words=1000), "THE LAST WORDS"]
    keep = None if words is None else {f"W{i}" for i in range(words)} | {"THE", "LAST", "WORDS"}
    ours = estimate(tmp_path, text, order, prune=prune, vocabulary=keep)
    command = ["lmplz", "-o", str(order), "-S", "64M", "--discount_fallback"]
    command += ["--arpa", str(tmp_path / "lmplz.arpa"), "-T", str(tmp_path / "t")]
    if prune:
        command += ["--prune", *map(str, prune)]
    if keep:
        (tmp_path / "keep").write_text(" ".join(sorted(keep)))
        command += ["--limit_vocab_file", str(tmp_path / "keep")]
    lines = "".join(f"{line}\n" for line in text)
    subprocess.run(command, input=lines.encode(), check=True, capture_output=True)
    theirs = read_arpa(tmp_path / "lmplz.arpa")
    assert ours.keys() == theirs.keys()
    for gram, values in theirs.items():
        assert ours[gram] == pytest.approx(values, abs=1e-3), gram
