"""Evaluate a Gemma3, an adapter, or a served model: the program `coldforge-evaluate`."""
