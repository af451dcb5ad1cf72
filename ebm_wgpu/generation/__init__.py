"""Generation: texts written token by token, from prompts, by every model family."""
