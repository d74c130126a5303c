"""Models of other toolkits as ours: NVIDIA NeMo's .nemo files, Hugging Face's Parakeet-CTC folders.

archive.py        a .nemo file's parts, read without trusting it
configuration.py  NeMo's configuration to ours; what has no equal here is refused by name
weights.py        NeMo's names and shapes to ours
huggingface.py    a folder of Hugging Face's in NeMo's names
pieces.py         its tokenizer as a SentencePiece model in this recipe's case
importing.py      all of it: to a folder, or to the cache
"""
