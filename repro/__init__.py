"""The reproduction of the paper NesT (arXiv 2105.12723), as a program."""

__version__ = "0.1.0"
