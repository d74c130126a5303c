"""The error report of decoding: what was got wrong, where, and whether one system is better than another.

A report is a function of what decode.py wrote to its ``--out``: ``results`` reads it, ``analysis`` and
``comparison`` count, ``text`` and ``page`` show the same numbers. Program: ``python -m asr.scoring.report``.
"""
