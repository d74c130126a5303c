"""Corpora to manifests: LibriSpeech from a folder or OpenSLR, and a synthetic corpus for the demo."""
