"""From recordings, transcripts and manifests to batches."""

MIX, EACH = "mix", "each"  # what --channel takes beside numbers
