"""Snippets that kernels include with `//!include <name>`."""
