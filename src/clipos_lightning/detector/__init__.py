"""A detector to decide with, its file, and streams of images and rows."""
