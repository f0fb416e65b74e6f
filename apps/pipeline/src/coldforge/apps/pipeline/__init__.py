"""`coldforge`: all stages of the pipeline by one command, each by its own program.

Read in this order: `main` (the story), `stages` (what each stage is given), `ledger` (what is done, what has to be done
again), `data` (rows, questions, held-out questions), `outcome`, `view` and `report` (what came of it).
"""
