"""Shipped configs, the parser of LightningCLI's options, and the messages of the command line."""
