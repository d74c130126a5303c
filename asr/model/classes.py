"""What a head's classes are; without PyTorch, which the processes of beam search do without."""

BLANK = 0  # no piece; class i is the tokenizer's piece i - 1
