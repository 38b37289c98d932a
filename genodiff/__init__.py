"""genodiff: masked diffusion language models for DNA, and for text."""

__version__ = "0.1.0"
