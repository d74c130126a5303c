"""Waveforms to log-probabilities: front end, Conformer encoder, CTC head."""
