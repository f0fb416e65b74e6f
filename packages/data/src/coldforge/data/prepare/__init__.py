"""Raw rows → a data set directory, in several processes, in memory that does not grow, and to be continued when killed.

    from coldforge.data.prepare import Options, prepare

    prepared = prepare(["rows.jsonl"], "dataset", tokenizer=Tokenizer.load("tokenizer.model"))

Where to read: `plan` is what was asked for, and what its sources are; `judge` is what becomes of one row, in whichever
process; `state` is what has been done so far, on disk; `shards` is what it becomes; `run` ties them together. `dataset`
reads what comes out.
"""

from coldforge.data.prepare.plan import Options
from coldforge.data.prepare.run import NothingLeftError, Prepared, Progress, prepare

__all__ = ["NothingLeftError", "Options", "Prepared", "Progress", "prepare"]
