"""Samples of a policy → a data set: the right and clean ones, some of each question (rejection sampling).

    logs = SampleLogs(Path("out", "samples"))        # the samples of each question, written before by `SampleLog`
    made = write_selection(questions, logs, "out", tokenizer=tokenizer, form=form, count=16, options=Selection())

Where to read: `samples` is what was sampled and judged, on disk; `select` is what becomes of one sample and of one
question's samples; `acceptance` counts that by how hard the questions are; `write` makes the data set, as `prepare`
does, with conversations mixed in. Who samples and who judges is not known here. DeepSeek-R1 (2501.12948v2, B.3.3) made
its 600,000 rows of reasoning so.
"""

from coldforge.data.rejection.acceptance import BUCKETS, Acceptance, Tally
from coldforge.data.rejection.samples import RIGHT, Sampled, SampleLog, SampleLogs
from coldforge.data.rejection.select import Selection, Selector, is_acceptable
from coldforge.data.rejection.write import Chat, NothingKeptError, Selected, find_chat, selection_entry, write_selection

__all__ = [
    "BUCKETS",
    "RIGHT",
    "Acceptance",
    "Chat",
    "NothingKeptError",
    "SampleLog",
    "SampleLogs",
    "Sampled",
    "Selected",
    "Selection",
    "Selector",
    "Tally",
    "find_chat",
    "is_acceptable",
    "selection_entry",
    "write_selection",
]
