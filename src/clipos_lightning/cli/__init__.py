"""The command line: the front door, LightningCLI, and a file for each command."""
