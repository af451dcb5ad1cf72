"""Embedded corpora and the GPT-2 vocabulary; see SOURCES.md, and manifest.json for SHA-256."""
