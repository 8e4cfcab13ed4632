"""Scores, metrics, thresholds and calibration."""
