"""The wgpu runtime: adapters, pooled buffers, cached pipelines and one open command encoder."""
