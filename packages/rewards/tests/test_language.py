"""Language consistency: which words count, and in which language they are."""

import pytest

from coldforge.rewards import Judged, LanguageConsistency, by_function_words
from coldforge.rewards.language import count_words

ENGLISH = "First we count the boxes, and then multiply by the number of apples in each of them."
SPANISH = "Primero contamos las cajas y entonces multiplicamos por el número de manzanas en cada una."


def share(reasoning, target="en", question="", **more):
    return LanguageConsistency(target, **more)([Judged("", 1, True, question, reasoning=reasoning)])[0]


@pytest.mark.parametrize(
    ("reasoning", "target", "expected"),
    [
        (ENGLISH, "en", 1),
        (ENGLISH, "zh", 0),
        (SPANISH, "en", 1),  # one script
        ("so 因此 we", "en", 2 / 3),
        ("so поэтому we get 12", "en", 3 / 4),
        ("So we get 12 apples: 因此答案是十二个苹果", "en", 4 / 9),
        ("因此答案是十二", "zh", 1),
        ("因此 the 答案", "zh", 2 / 3),
        ("だから、答えは12です", "ja", 1),
        ("それは漢字です", "zh", 1 / 3 + 0),  # それは 2, 漢字 1, です 1: of Han is one in four
        ("그래서 답은 12입니다", "ko", 1),
        ("Поэтому ответ равен 12", "ru", 1),
        ("इसलिए उत्तर 12 है", "hi", 1),
        ("لذلك الجواب هو 12", "ar", 1),
        ("לכן התשובה היא 12", "he", 1),
        ("άρα η απάντηση είναι 12", "el", 1),
        # Formulas, code, digits, lone letters, Greek letters are of no language.
        (r"$\text{x} + 因$ so $$因此 = 3$$ we \(因\) get \[因此\] 12", "en", 1),
        ("so `因此` we\n```\n因此 = 1\n```\nget 12", "en", 1),
        ("x y z 12 因此", "en", 0),
        ("the angle α and β, so θ = π", "en", 1),
        (r"\begin{align}因此\end{align} so we get", "en", 1),
        (r"so $12 \text{ 因此}$ we", "en", 2 / 3),  # words within a formula are words
        ("12 + 13 = 25", "en", 1),
        ("", "en", 0),
        ("   ", "en", 0),
        ("Das heißt: für größere Zahlen geht's schön", "de", 1),
        ("x_1 and y2 and 因", "en", 2 / 3),
    ],
)
def test_by_script(reasoning, target, expected):
    if "漢字" in reasoning:
        expected = 1 / 4
    assert share(reasoning, target) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("question", "reasoning", "expected"),
    [
        ("How many apples?", ENGLISH, 1),
        ("How many apples?", "因此答案", 0),
        ("一共有多少个苹果？", "因此答案", 1),
        ("一共有多少个苹果？", ENGLISH, 0),
        ("りんごは いくつ ありますか。", "だから答え", 1),
        ("12 + 13 = ?", ENGLISH, 1),
        ("", ENGLISH, 1),
    ],
)
def test_in_the_questions_script(question, reasoning, expected):
    assert share(reasoning, None, question) == expected


def test_target_by_reply():
    target = lambda reply: reply.meta["language"]  # noqa: E731
    judged = [Judged("", 1, True, reasoning="因此答案", meta={"language": code}) for code in ("zh", "en")]
    assert LanguageConsistency(target)(judged) == [1, 0]


def test_an_identifier_tells_languages_of_one_script():
    both = f"{ENGLISH}\n{SPANISH} {ENGLISH}"
    count = count_words(ENGLISH, frozenset(["Latin"]))[0]
    other = count_words(SPANISH, frozenset(["Latin"]))[0]
    found = share(both, identify=by_function_words)
    assert found == pytest.approx(2 * count / (2 * count + other))
    assert share(both, "es", identify=by_function_words) == pytest.approx(other / (2 * count + other))
    assert share("Hola. Entonces sí.", identify=by_function_words) == 1  # too short to say
    asked = []
    share(f"{ENGLISH} {SPANISH} Ok.", identify=lambda passage: asked.append(passage))
    assert asked == [ENGLISH, SPANISH]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (ENGLISH, "en"),
        (SPANISH, "es"),
        ("Zuerst zählen wir die Kisten, und dann multiplizieren wir mit der Zahl der Äpfel.", "de"),
        ("D'abord nous comptons les boîtes, et puis on multiplie par le nombre de pommes dans chaque boîte.", "fr"),
        ("Prima contiamo le scatole e quindi moltiplichiamo per il numero di mele che sono nella scatola.", "it"),
        ("Primeiro contamos as caixas e então multiplicamos pelo número de maçãs em cada uma, mas não mais.", "pt"),
        ("Eerst tellen we de dozen, dus het aantal is twaalf en dat is niet meer.", "nl"),
        ("Сначала мы считаем коробки, и это значит, что ответ не больше.", "ru"),
        ("Спочатку ми рахуємо, що це та відповідь, і тоді її можна перевірити або ні.", "uk"),
        ("12 + 13 = 25", None),
        ("apples boxes", None),
        ("", None),
    ],
)
def test_function_words(text, language):
    assert by_function_words(text) == language


def test_errors():
    with pytest.raises(ValueError, match="the script of 'tlh' is not known; known are ar, as, be"):
        LanguageConsistency("tlh")
    with pytest.raises(ValueError, match="identify needs a target"):
        LanguageConsistency(None, identify=by_function_words)
