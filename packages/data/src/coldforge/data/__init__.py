"""Text for Gemma3: the tokenizer and the chat template."""
