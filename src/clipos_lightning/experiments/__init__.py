"""Grids of detectors: plan, train, score in one pass and compare. See docs/experiments.md."""
