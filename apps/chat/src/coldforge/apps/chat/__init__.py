"""Talk to a Gemma3 in the terminal: the program `coldforge-chat`.

Where to read: `main` is its command line and what happens in which order; `talk` asks a model and writes its answers;
`weights` finds weights and tokenizer.
"""
