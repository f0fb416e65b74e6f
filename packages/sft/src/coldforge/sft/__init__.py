"""Supervised fine-tuning: the loop, and the gate that its result has to pass."""
