"""Raw rows to a data set for cold-start SFT, with an account of every row."""
