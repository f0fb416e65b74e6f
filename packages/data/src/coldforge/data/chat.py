"""Gemma's chat template: a conversation as turns, and as the one string that Hugging Face's template makes of it.

`turn_texts` says what stands between the turn markers; `render_chat` puts the markers in as text, for people to read,
and `Tokenizer.encode_chat` puts them in as ids, for models. Only text is supported: no images, no tools (Gemma3's
template has none).
"""

from collections.abc import Mapping, Sequence

from coldforge.data.vocabulary import BOS, END_OF_TURN, START_OF_TURN

type Message = Mapping[str, str]
"""`{"role": "system" | "user" | "assistant", "content": text}`. "model" is another name for "assistant"."""

GENERATION_PROMPT = "model\n"
_MODEL_ROLES = ("assistant", "model")


def turn_texts(messages: Sequence[Message]) -> list[str]:
    r"""Returns each turn's role, newline and content, as they stand between <start_of_turn> and <end_of_turn>.

    As in Gemma's template, content loses the white space around it, and a system message stands in front of the first
    user turn, as it is, with an empty line between:
    `[system "Be brief.", user " Hi "]` gives `["user\nBe brief.\n\nHi"]`.

    Raises:
        ValueError: There is no message; a message is not a mapping with a known role and a string as content; a system
            message is not the first or has no user turn after it; or user and assistant do not take turns, beginning
            with the user.
    """
    contents = [_checked(index, message) for index, message in enumerate(messages)]
    if not contents:
        raise ValueError("there are no messages; a conversation needs at least one user message.")
    system = ""
    if contents[0][0] == "system":
        system = contents.pop(0)[1] + "\n\n"
        if not contents:
            raise ValueError("there is only a system message; it needs a user message after it, which it is put into.")
    first = len(messages) - len(contents)
    turns = []
    for index, (role, content) in enumerate(contents):
        expected = ("user", "model")[index % 2]
        if role != expected:
            raise ValueError(
                f"message {first + index} has the role {messages[first + index]['role']!r} where {expected!r} is due: "
                "after an optional system message, user and assistant take turns, beginning with the user."
            )
        turns.append(f"{role}\n{system if index == 0 else ''}{content.strip()}")
    return turns


def _checked(index: int, message: Message) -> tuple[str, str]:
    """Returns role (as the template names it) and content."""
    if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
        raise ValueError(f"message {index} is {message!r:.80}; wanted a mapping with 'role' and 'content'.")
    role, content = message["role"], message["content"]
    if not isinstance(content, str):
        raise ValueError(f"message {index} has content of type {type(content).__name__}; wanted a string.")
    if role in _MODEL_ROLES:
        return "model", content
    if role not in ("system", "user"):
        raise ValueError(f"message {index} has the role {role!r}; known are system, user, assistant.")
    return role, content


def render_chat(messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
    r"""Renders a conversation as Gemma3's chat template in Hugging Face does, to the byte.

    The string is for people to read and for trusted text. To feed a model, call `Tokenizer.encode_chat`: once content
    and markers are one string, a "<start_of_turn>" that a user wrote cannot be told from a real one.

    Args:
        messages: The conversation, oldest first.
        add_generation_prompt: Whether to end with the opening of the model's turn.

    Returns:
        E.g. `"<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n"`.

    Raises:
        ValueError: As for `turn_texts`. Hugging Face's template is more lenient in two cases: it drops a system message
            that stands alone, and it takes any role for the model's part.
    """
    turns = "".join(f"{START_OF_TURN}{turn}{END_OF_TURN}\n" for turn in turn_texts(messages))
    return BOS + turns + (START_OF_TURN + GENERATION_PROMPT if add_generation_prompt else "")
