"""An energy-based language model on the unit sphere whose hot loops are WGSL compute kernels."""

__version__ = "0.1.0"
