"""Training: the LightningModule, its callbacks, checkpoints and learning-rate schedule."""
