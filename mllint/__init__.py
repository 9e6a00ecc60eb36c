"""mllint: finds, across files, the mistakes that make a training run fail silently."""

__version__ = "0.1.0"
