"""A small grammar that makes up the demo's sentences: 3 to 9 words out of about 150 everyday words."""

import random

_NOUNS = (
    "man woman boy girl doctor teacher farmer sailor king queen dog cat horse bird river mountain "
    "house garden village city ship train window table letter picture basket"
).split()
_PEOPLE = "man woman boy girl doctor teacher farmer sailor king queen dog cat horse bird".split()
_THINGS = "house garden window table letter picture basket ship bread apple money paper".split()
_PLACES = "river mountain house garden village city station market forest kitchen church".split()
_ADJECTIVES = "old young little great happy quiet black white strong poor brave tired".split()
_NAMES = "peter mary john alice thomas helen robert susan".split()
_PRONOUNS = "he she they we everybody nobody".split()
_TRANSITIVE = "saw found wanted carried painted remembered bought lost followed washed".split()
_INTRANSITIVE = "walked waited slept laughed worked danced stopped played stood sang".split()
_SPEECH = "said thought knew believed heard".split()
_TIMES = (
    "yesterday|today|again|in the morning|every evening|last winter|after dinner|before breakfast|"
    "for seven hours|two days ago|on sunday|once more"
).split("|")
_PREPOSITIONS = "near behind beside across from towards".split()
_NUMBERS = "two three four five six seven eight nine ten twenty".split()
_PLURALS = "horses birds letters apples ships children friends books stones flowers".split()


def make_sentence(rng: random.Random) -> str:
    """One sentence, drawn from the grammar with ``rng``. Upper case, as LibriSpeech writes its text."""
    kind = rng.random()
    if kind < 0.35:
        words = [_subject(rng), rng.choice(_TRANSITIVE), _object(rng), _time(rng, 0.3)]
    elif kind < 0.70:
        words = [_subject(rng), rng.choice(_INTRANSITIVE), _place(rng), _time(rng, 0.3)]
    elif kind < 0.80:
        words = ["there were", rng.choice(_NUMBERS), rng.choice(_PLURALS), _place(rng)]
    elif kind < 0.90:
        words = [rng.choice(_NAMES), rng.choice(_SPEECH), "that", _subject(rng)]
        words += ["was", rng.choice(_ADJECTIVES)]
    else:
        words = ["why did", _subject(rng), "come", _place(rng), _time(rng, 0.3)]
    return " ".join(word for word in words if word).upper()


def _subject(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.25:
        return rng.choice(_NAMES)
    if kind < 0.45:
        return rng.choice(_PRONOUNS)
    if kind < 0.70:
        return f"the {rng.choice(_PEOPLE)}"
    return f"the {rng.choice(_ADJECTIVES)} {rng.choice(_PEOPLE)}"


def _object(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.3:
        return f"{rng.choice(_NUMBERS)} {rng.choice(_PLURALS)}"
    if kind < 0.6:
        return f"a {rng.choice(_ADJECTIVES)} {rng.choice(_NOUNS)}"
    return f"the {rng.choice(_THINGS)}"


def _place(rng: random.Random) -> str:
    return f"{rng.choice(_PREPOSITIONS)} the {rng.choice(_PLACES)}"


def _time(rng: random.Random, chance: float) -> str:
    return rng.choice(_TIMES) if rng.random() < chance else ""
