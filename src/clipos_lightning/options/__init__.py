"""Shipped configs by name, the parser of options, and its messages."""
