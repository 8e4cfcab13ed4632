"""The LightningModule, its callbacks, checkpoints and schedule."""
