"""Grids of detectors: planned, trained, judged in one pass, compared. See docs/experiments.md."""
