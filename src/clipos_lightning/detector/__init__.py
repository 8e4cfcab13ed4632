"""Detector and its file format, streams of input images, files of output rows."""
