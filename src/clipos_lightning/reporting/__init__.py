"""Reports of a test: JSON, Markdown, HTML page, similarity maps, Weights & Biases."""
