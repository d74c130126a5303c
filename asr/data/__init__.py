"""From recordings, transcripts and manifests to batches."""
