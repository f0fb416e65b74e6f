r"""How a question is put: prompts by name, and how the replies to each are read.

| name | what is asked | the answer is looked for |
|---|---|---|
| `reasoning` | `ReasoningFormat`'s instruction, then the question | between the tags |
| `boxed` | DeepSeek-R1's "Please reason step by step, and put your final answer within \boxed{}." | in the last box |
| `simple-evals` | OpenAI's simple-evals: "The last line of your response should be …" | after "Answer:" |
| `plain` | the question alone | by the fallbacks |
| `lm-eval:gsm8k` | 5 examples of the train split, raw text | after `####`; also the last number |
| `lm-eval:gsm8k_cot` | 8 examples of Wei et al. 2022, raw text | "The answer is …"; also the last number |
| `lm-eval:mmlu` | 5 examples of the subject's dev split, raw text | the letter that follows |
| `lm-eval:mmlu_pro` | 5 worked examples of the category, raw text | "answer is (B)" |
| `lm-eval:minerva_math` | 4 examples of Lewkowycz et al. 2022, raw text | "Final Answer: The final answer is …" |

Those of lm-evaluation-harness are the same to the character (0.4.13, its default seed), so that base models' scores are
comparable; only MMLU is asked for a letter here, where lm-eval compares probabilities. Raw text goes to the model
without a chat template and ends at the style's stop texts.

`PromptStyle` is one; make others with `dataclasses.replace`. Where a reply has not the form that was asked for, a
grader's fallbacks look elsewhere, for nearly all that is said in replies of models that know no tags; without them
(`fallbacks=()`), the form is a condition.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from random import Random
from typing import Any, Literal

from coldforge.data.format import ReasoningFormat
from coldforge.data.records import Question
from coldforge.eval.benchmarks import LETTERS, Shot
from coldforge.eval.ifeval import IFEval
from coldforge.eval.records import Prompt
from coldforge.eval.verify import Boxed, ExactMatch, Extraction, Marked, Verifier
from coldforge.rewards import Fallback, Form, Grader, MathPool, read_quantity

FALLBACKS: tuple[Fallback, ...] = ("open tag", "boxed", "hashes", "phrase", "whole", "last number")
CHOICE_FALLBACKS: tuple[Fallback, ...] = ("open tag", "boxed", "phrase", "whole")
"""A choice is no number."""

NUMBER_FALLBACKS: tuple[Fallback, ...] = ("open tag", "boxed", "hashes", "phrase", "last number")
"""Where all right answers are numbers: "It is 12." as a whole is none."""

SHOTS_SEED = 1234
"""Of lm_eval.evaluator.simple_evaluate, for shots that are drawn."""


@dataclass(frozen=True, kw_only=True)
class PromptStyle:
    """How questions are put, and how replies are read.

    Attributes:
        name: By which it is chosen.
        ask: The question's text; fields `{question}`, `{options}`, `{letters}` ("ABCD").
        ask_choice: The same for multiple choice; "": `ask`, with the options below the question.
        option: One choice; fields `{letter}`, `{text}`. They stand on lines of their own.
        raw: Whether the prompt is text that no chat template goes around.
        strip_question, strip_choices: Whether white space around them is dropped.
        description: What stands before everything; field `{category}`.
        answer: How an example's answer follows its question; field `{answer}`.
        separator: What stands between examples.
        shots: How many examples. `draw`: "fixed": of `examples`; "first": the first of the question's category in
            the split of examples; "random": drawn for each question in turn, as lm-eval draws.
        examples: The fixed ones.
        stop: Texts at which a reply ends.
        max_new_tokens: Where a reply is cut off; None: the benchmark's own.
        form, choice_form: How a reply is read; the second for multiple choice, None: the same.
        fallbacks, choice_fallbacks, number_fallbacks: Where else an answer may stand (see `coldforge.rewards.extract`):
            in general, where all questions are multiple choice, where all right answers are numbers.
        formed: Whether a form is asked for at all.
        tagged: Whether its form parts reasoning from answer, so that only the answer counts where all of a reply would.
        matcher: Judges in place of a grader.

    Raises:
        ValueError: A template has a field that is none.
    """

    name: str
    ask: str = "{question}"
    ask_choice: str = ""
    option: str = "{letter}) {text}"
    raw: bool = False
    strip_question: bool = False
    strip_choices: bool = False
    description: str = ""
    answer: str = " {answer}"
    separator: str = "\n\n"
    shots: int = 0
    draw: Literal["fixed", "first", "random"] = "fixed"
    examples: tuple[Shot, ...] = ()
    stop: tuple[str, ...] = ()
    max_new_tokens: int | None = None
    form: Form = dataclasses.field(default_factory=ReasoningFormat)
    choice_form: Form | None = None
    fallbacks: tuple[Fallback, ...] = FALLBACKS
    choice_fallbacks: tuple[Fallback, ...] = CHOICE_FALLBACKS
    number_fallbacks: tuple[Fallback, ...] = NUMBER_FALLBACKS
    formed: bool = True
    tagged: bool = False
    matcher: ExactMatch | None = None

    def __post_init__(self) -> None:
        try:
            self._turn("?", ("a", "b"))
            self._turn("?", ())
            self.description.format(category="")
            self.answer.format(answer="")
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(
                f"a template of the prompt {self.name!r} has the field {error}; wanted question, options, letters, "
                "letter, text, category or answer, and braces doubled."
            ) from error
        if self.draw == "fixed" and len(self.examples) < self.shots:
            raise ValueError(f"the prompt {self.name!r} has {len(self.examples)} examples; wanted {self.shots}.")

    def render(self, question: Question, shots: Sequence[Shot] = ()) -> Prompt:
        """Returns the whole prompt: one user message, or raw text with its examples.

        Args:
            question: What is asked.
            shots: The examples, unless they are fixed.
        """
        category = question.meta.get("category", "")
        examples = self.examples[: self.shots] if self.draw == "fixed" else shots
        parts = [self._turn(shot.question, shot.choices) + self.answer.format(answer=shot.answer) for shot in examples]
        parts.append(self._turn(question.text, question.meta.get("choices", ())))
        text = self.description.format(category=category.replace("_", " ")) + self.separator.join(parts)
        return text if self.raw else ({"role": "user", "content": text},)

    def _turn(self, text: str, choices: Sequence[str]) -> str:
        text = text.strip() if self.strip_question else text
        choices = [choice.strip() for choice in choices] if self.strip_choices else choices
        if not choices:
            return self.ask.format(question=text, options="", letters="")
        lines = [
            self.option.format(letter=letter, text=choice) for letter, choice in zip(LETTERS, choices, strict=False)
        ]
        options, letters = "\n".join(lines), LETTERS[: len(choices)]
        if self.ask_choice:
            return self.ask_choice.format(question=text, options=options, letters=letters)
        return self.ask.format(question=f"{text}\n\n{options}", options=options, letters=letters)

    def verifier(self, questions: Sequence[Question], pool: MathPool | None = None) -> Verifier:
        """Returns what judges replies to these questions.

        Raises:
            ValueError: They are of kinds that no one verifier judges.
        """
        kinds = {question.kind for question in questions}
        if "instructions" in kinds:
            if kinds != {"instructions"}:
                raise ValueError(f"there are questions of the kinds {', '.join(sorted(kinds))}; IFEval's go alone.")
            return IFEval(self.form if self.tagged else None)
        if self.matcher is not None:
            return self.matcher
        choice = all("choices" in question.meta for question in questions)
        if choice:
            return Grader(self.choice_form or self.form, fallbacks=self.choice_fallbacks, pool=pool)
        numbers = all("scorer" not in each.meta and _is_number(each) for each in questions)
        return Grader(self.form, fallbacks=self.number_fallbacks if numbers else self.fallbacks, pool=pool)

    def describe(self) -> dict[str, Any]:
        """Returns what decides the prompts, as JSON holds it; how replies are read is the verifier's to say."""
        options = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        for name in ("form", "choice_form", "fallbacks", "choice_fallbacks", "number_fallbacks", "matcher", "examples"):
            options.pop(name)
        return options | {"stop": list(self.stop)}


def _is_number(question: Question) -> bool:
    if question.kind == "auto" and "choices" not in question.meta:
        return question.answer is not None and read_quantity(question.answer) is not None
    return question.kind == "number"


def choose_shots(
    style: PromptStyle, questions: Sequence[Question], pool: Sequence[Shot]
) -> dict[str, tuple[Shot, ...]]:
    """Returns each question's examples, by id; none for a style whose examples are fixed.

    Args:
        style: Says how many, and how they are chosen.
        questions: All of the benchmark, in its order: each draw depends on those before it.
        pool: The split of examples.

    Raises:
        ValueError: There are too few examples, or too few of a question's category.
    """
    if style.draw == "fixed" or not style.shots:
        return {}
    if style.draw == "random":
        if len(pool) < style.shots:
            raise ValueError(f"there are {len(pool)} examples; {style.name} wants {style.shots}.")
        random = Random(SHOTS_SEED)  # noqa: S311 - lm-eval's own draw
        rows = list(pool)
        return {question.id: tuple(random.sample(rows, style.shots)) for question in questions}
    by_category: dict[str, list[Shot]] = {}
    for shot in pool:
        by_category.setdefault(shot.category, []).append(shot)
    found = {}
    for question in questions:
        some = by_category.get(question.meta.get("category", ""), [])[: style.shots]
        if len(some) < style.shots:
            category = question.meta.get("category", "")
            raise ValueError(f"there are {len(some)} examples of {category!r}; {style.name} wants {style.shots}.")
        found[question.id] = tuple(some)
    return found


@functools.cache
def _examples(name: str) -> tuple[Shot, ...]:
    """Examples of papers, from `shots.json`."""
    text = resources.files("coldforge.eval").joinpath("shots.json").read_text(encoding="utf-8")
    return tuple(Shot(question, answer) for question, answer in json.loads(text)[name]["shots"])


def reasoning(form: ReasoningFormat) -> PromptStyle:
    """Returns the style `reasoning`, with other tags or another instruction."""
    instruction = form.instruction.replace("{", "{{").replace("}", "}}")
    ask = f"{instruction}\n\n{{question}}" if instruction else "{question}"
    letter = "Give the letter of the right choice, one of {letters}, as the answer."
    return PromptStyle(
        name="reasoning", ask=ask, ask_choice=f"{ask}\n\n{{options}}\n\n{letter}", form=form, tagged=True
    )


# Its two patterns, with room for Markdown around the word, and the last match in place of the first: a model that
# reasons may well say "Answer:" before it is done.
_ANSWER = r"(?i)answer[*_ \t]*:[*_ \t]*"
_SIMPLE_CHOICE = (
    "Answer the following multiple choice question. The last line of your response should be of the following format: "
    "'Answer: $LETTER' (without quotes) where LETTER is one of {letters}. Think step by step before answering.\n\n"
    "{question}\n\n{options}"
)
_SIMPLE = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$ANSWER (without quotes) where $ANSWER is the answer to the problem.\n\n{question}\n\n"
    'Remember to put your answer on its own line after "Answer:", and you do not need to use a \\boxed command.'
)
_BOX = "Please reason step by step, and put your final answer within \\boxed{{}}."
_FLEXIBLE = Extraction("flexible-extract", r"(-?[$0-9.,]{2,})|(-?[0-9]+)", -1)
# lm-eval's, but for the \A, which changes nothing but that it is tried once and not at each digit.
_IGNORED = (",", r"\$", r"(?s)\A.*#### ", r"\.$")
_raw = functools.partial(PromptStyle, raw=True, option="{letter}. {text}")
_ENDS = ("</s>", "<|im_end|>")

STYLES: Mapping[str, PromptStyle] = {
    style.name: style
    for style in (
        reasoning(ReasoningFormat()),
        PromptStyle(
            name="boxed", ask=f"{{question}}\n\n{_BOX}",
            ask_choice=f"{{question}}\n\n{{options}}\n\n{_BOX[:-1]}, as the letter of the right choice.", form=Boxed(),
        ),
        PromptStyle(
            name="simple-evals", ask=_SIMPLE, ask_choice=_SIMPLE_CHOICE, form=Marked(rf"{_ANSWER}([^\n]*[^\n\s*_])"),
            choice_form=Marked(rf"{_ANSWER}(?:[$\\(]|boxed\{{|text\{{)*([A-J])(?![a-zA-Z])"),
        ),
        PromptStyle(name="plain", formed=False),
        _raw(
            name="lm-eval:gsm8k", ask="Question: {question}\nAnswer:", shots=5, draw="random",
            stop=("Question:", *_ENDS), max_new_tokens=256,
            matcher=ExactMatch(
                filters=(Extraction("strict-match", r"#### (\-?[0-9\.\,]+)"), _FLEXIBLE), ignore=_IGNORED
            ),
        ),
        _raw(
            name="lm-eval:gsm8k_cot", ask="Q: {question}\nA:", shots=8, examples=_examples("gsm8k_cot"),
            stop=("Q:", *_ENDS), max_new_tokens=256,
            matcher=ExactMatch(
                filters=(Extraction("strict-match", r"The answer is (\-?[0-9\.\,]+)."), _FLEXIBLE), ignore=_IGNORED
            ),
        ),
        _raw(
            name="lm-eval:mmlu", ask_choice="{question}\n{options}\nAnswer:", shots=5, draw="first",
            description="The following are multiple choice questions (with answers) about {category}.\n\n",
            stop=("\n",), max_new_tokens=16, form=Marked(r"\A\s*\(?([A-D])(?![a-zA-Z])"),
            choice_fallbacks=("phrase", "whole"), strip_question=True,
        ),
        _raw(
            name="lm-eval:mmlu_pro", shots=5, draw="first", strip_choices=True, max_new_tokens=2048,
            ask_choice="Question:\n{question}\nOptions:\n{options}\nAnswer: Let's think step by step.",
            description="The following are multiple choice questions (with answers) about {category}. Think step by "
            'step and then finish your answer with "the answer is (X)" where X is the correct letter choice.\n',
            stop=("Question:",),
            matcher=ExactMatch(
                filters=(Extraction("custom-extract", r"answer is \(?([ABCDEFGHIJ])\)?"),), punctuation=False
            ),
        ),
        _raw(
            name="lm-eval:minerva_math", ask="Problem:\n{question}\n\nSolution:", shots=4,
            examples=_examples("minerva_math"), stop=("Problem:",), max_new_tokens=256,
            form=Marked(r"Final Answer: The final answer is(.*?)\.? I hope it is correct\."),
        ),
    )
}  # fmt: skip


def style_of(name: str | PromptStyle, form: ReasoningFormat | None = None) -> PromptStyle:
    """Returns a style by its name.

    Args:
        name: Of `STYLES`, or a style.
        form: The tags and the instruction of `reasoning`. None: its own.

    Raises:
        ValueError: There is no such style, or a form is given with another.
    """
    if isinstance(name, PromptStyle):
        return name
    if name not in STYLES:
        raise ValueError(f"there is no prompt {name!r}; there are {', '.join(STYLES)}.")
    if form is None:
        return STYLES[name]
    if name != "reasoning":
        raise ValueError(f"a form is given with the prompt {name!r}; only 'reasoning' has tags.")
    return reasoning(form)
