"""Scores, detector heads, metrics, test tables, thresholds, validation and calibration."""
