"""Cold-start SFT of a Gemma3 on any TPU mesh, from a prepared data set to a model that passes its gate."""
