"""A trained model behind HTTP: completions as clients of OpenAI's API know them, and latents."""
