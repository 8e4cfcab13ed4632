"""The frozen CLIP: loading, the surgery path, text encoding. The only folder that imports open_clip."""
