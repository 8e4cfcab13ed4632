"""The command line: the entry point (``main``), LightningCLI (``trainer``), and one module per other command."""
