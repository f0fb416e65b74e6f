"""Text for Gemma3: tokenizer, chat template, and raw rows made into examples that show their work.

Where to read: `tokenizer` turns text into ids and back, and keeps what people wrote apart from what steers the model;
`chat` is Gemma's template; `vocabulary` reads and writes SentencePiece's model file; `gguf_header` gets the same
vocabulary out of a GGUF file.

`format` is `<reasoning>…</reasoning><answer>…</answer>`; `records` says what travels between the steps that follow;
`sources` reads rows; `convert` makes examples of them, for which `answers` finds the final answer in a solution;
`filters` and `duplicates` judge examples, with `ngrams`; `tokens` encodes them and weighs their tokens;
`audit` counts what became of the rows, and `audit_page` shows it. `dataset` is what they become on disk;
`check` finds rows that do not teach what they say; `packing` plans which examples share a row, and `batches` reads them
for training and evaluation.

`conversations` are rows that do not show their work; `rejection` makes a data set of a policy's own samples.

`questions` is what reinforcement learning asks: `question_rows` makes them of rows, `question_gym` of reasoning-gym's
tasks, `question_order` says which is next.
"""

from coldforge.data.audit import Audit, Sample, SourceAudit
from coldforge.data.audit_page import audit_page
from coldforge.data.batches import Batches, EvalBatches, TokenBatch, eval_batches
from coldforge.data.chat import Message, render_chat
from coldforge.data.check import RowFault, check_rows
from coldforge.data.convert import Conversion, convert
from coldforge.data.dataset import Dataset, Record, Split, open_dataset, write_dataset
from coldforge.data.duplicates import ExactDuplicates, NearDuplicates
from coldforge.data.filters import (
    Decontamination,
    Filter,
    code_blocks,
    long_paragraphs,
    mixed_language,
    repetition,
)
from coldforge.data.format import FormatError, ReasoningFormat, Reply
from coldforge.data.packing import Plan, plan_rows
from coldforge.data.questions import Questions, open_questions, split_questions
from coldforge.data.records import AnswerKind, Example, Question, Refusal, Row
from coldforge.data.sources import read_rows
from coldforge.data.tokenizer import StreamDecoder, Tokenizer
from coldforge.data.tokens import Part, Tokens, loss_weights, tokenize

__all__ = [
    "AnswerKind",
    "Audit",
    "Batches",
    "Conversion",
    "Dataset",
    "Decontamination",
    "EvalBatches",
    "ExactDuplicates",
    "Example",
    "Filter",
    "FormatError",
    "Message",
    "NearDuplicates",
    "Part",
    "Plan",
    "Question",
    "Questions",
    "ReasoningFormat",
    "Record",
    "Refusal",
    "Reply",
    "Row",
    "RowFault",
    "Sample",
    "SourceAudit",
    "Split",
    "StreamDecoder",
    "TokenBatch",
    "Tokenizer",
    "Tokens",
    "audit_page",
    "check_rows",
    "code_blocks",
    "convert",
    "eval_batches",
    "long_paragraphs",
    "loss_weights",
    "mixed_language",
    "open_dataset",
    "open_questions",
    "plan_rows",
    "read_rows",
    "render_chat",
    "repetition",
    "split_questions",
    "tokenize",
    "write_dataset",
]
