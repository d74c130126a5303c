"""Speech recognition with Conformers whose self-attention can be chosen."""
