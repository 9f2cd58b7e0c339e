"""The reproduction of a paper as a program: an engine, the paper, and a library of parts."""

__version__ = "0.1.0"
