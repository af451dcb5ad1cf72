"""Text: corpora by name or path, tokenizers, and the windows models train and are scored on."""
