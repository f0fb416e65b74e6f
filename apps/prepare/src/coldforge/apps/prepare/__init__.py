"""Raw rows to a data set for cold-start SFT, with an account of every row: the program `coldforge-prepare`.

Where to read: `main` is its command line and what happens in which order; `tables` is the account in the terminal. The
work is done by `coldforge.data.prepare`.
"""
