"""Which rows are held out: by their questions, so that no question is in both splits."""

import heapq
from collections import Counter

from coldforge.data.duplicates import exact_key
from coldforge.data.ngrams import words

QUESTIONS = 1 << 63
"""Questions are numbered from 0 up to this, by `question_number`."""


def question_number(question: str, seed: int) -> int:
    """Returns a number below `QUESTIONS` that questions with the same words share, and that is drawn by the seed."""
    same = " ".join(words(question)) or question
    return int.from_bytes(exact_key(f"{seed} {same}")[:8], "big") >> 1


class HeldOut:
    """Which questions are held out: those below a share of all numbers, or the lowest that make up so many rows.

    A question's rows all go the same way. The lowest of those seen so far are held out; when a lower one comes, the
    highest of them may leave, and never comes back.
    """

    def __init__(
        self, share: float, rows: int | None, seen: Counter[int] | None = None, *, by_question: bool = False
    ) -> None:
        """Begins, or goes on.

        Args:
            share: Of the questions.
            rows: How many instead; None: by share.
            seen: Question → its rows that are held out so far.
            by_question: Whether `rows` counts questions, however many rows each has.
        """
        self._below = int(share * QUESTIONS)
        self._wanted, self._by_question = rows, by_question
        self._rows = Counter[int]() if seen is None or rows is None else seen
        self._count = self._rows.total()
        self._heap = [-question for question in self._rows]  # the highest first
        heapq.heapify(self._heap)

    @property
    def may_leave(self) -> bool:
        """Whether rows that are held out so far may yet leave."""
        return self._wanted is not None

    def place(self, question: int) -> tuple[str, list[int]]:
        """Returns the split of a row with this question, and the questions that leave `heldout` because of it."""
        if self._wanted is None:
            return ("heldout" if question < self._below else "train"), []
        if question not in self._rows:
            if self._count >= self._wanted and (not self._heap or question > -self._heap[0]):
                return "train", []
            heapq.heappush(self._heap, -question)
        elif self._by_question:
            return "heldout", []
        self._rows[question] += 1
        self._count += 1
        leaving = []
        while self._count - self._rows[-self._heap[0]] >= self._wanted:
            leaving.append(-heapq.heappop(self._heap))
            self._count -= self._rows.pop(leaving[-1])
        return "heldout", leaving
