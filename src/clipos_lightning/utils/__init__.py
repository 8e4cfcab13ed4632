"""Atomic file writes, progress bars, row-wise chunks, imports by dotted path."""
