"""WGSL sources: one kernel a file, snippets that kernels share in lib/."""
