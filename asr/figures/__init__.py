"""Pictures of trained models and of their training: python -m asr.figures."""
