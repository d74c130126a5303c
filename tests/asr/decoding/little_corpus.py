"""Sentences that a little tokenizer and LM are made of."""

TEXT = ["THE CAT SAT", "THE CAT RAN", "A DOG SAT", "THE DOG SAT ON THE CAT", "A CAT RAN"] * 10
