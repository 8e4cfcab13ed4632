"""Files, progress bars, chunks, imports by dotted path."""
