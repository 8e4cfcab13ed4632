"""The frozen CLIP: loading, the surgery path, text. The only folder that imports open_clip."""
