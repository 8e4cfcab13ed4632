"""Data: sets, the few-shot draw, the embedded scenes, the LightningDataModule."""
