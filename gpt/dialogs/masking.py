"""Which tokens of a dialog are a model's answers: what its chat template writes between asking for one and its end.

For every answer the template is run twice: on the messages before it, up to where the answer begins, as a chat does;
and on the same with the answer. What the second text has in addition is learned, up to the token that ends an answer.
Most templates write a dialog from front to back, so that all its answers are learned from one text. Some change what
they have written when more follows (Qwen 3 drops thoughts); there each answer has a text of its own.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gpt.corpus.tokens import ANSWER, BEGIN, FLAGS
from gpt.dialogs.messages import ANSWERING
from gpt.errors import UserError
from gpt.files import read_text
from gpt.generation.templates import ChatTemplate, Message
from gpt.tokenizers.load import Tokenizer

Part = tuple[str, bool]  # a text, and whether it is an answer
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = re.compile(r"<\|[^|<>\s]+\|>")  # how templates write special tokens
PROBE = [{"role": "user", "content": "Question"}, {"role": ANSWERING, "content": "Answer"}]


def find_template(name: str) -> str | None:
    """The source of the template that `--chat-template` names; None for an empty name. UserError if there is none."""
    if not name:
        return None
    if name == "chatml":
        return CHATML
    try:
        return read_text(Path(name))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--chat-template {name}: is neither chatml nor a file that can be read ({reason})") from None


def special_tokens(source: str) -> list[str]:
    """The special tokens that a template writes, such as <|im_end|>, in their order."""
    return list(dict.fromkeys(SPECIAL.findall(source)))


def stop_token(template: ChatTemplate, tokenizer: Tokenizer) -> int:
    """The special token that a template writes after an answer. UserError if it writes none."""
    (_, _), (answer, _), *_ = answer_texts(template, PROBE)[0]
    rest = answer.partition(PROBE[1]["content"])[2]
    as_text = set(tokenizer.encode(rest).tolist())
    special = [token for token in tokenizer.encode(rest, special=True).tolist() if token not in as_text]
    if not special:
        raise UserError(
            "the chat template ends answers with none of the tokenizer's special tokens, so that a model could not end "
            "its own: write one there, such as {{ eos_token }}, or choose another --chat-template"
        )
    return special[0]


def first_question(tokens: np.ndarray, answers: np.ndarray, limit: int) -> np.ndarray:
    """The beginning of the first dialog of some tokens (count,), up to its first answer; of more than `limit` the end.

    answers: (count,) ANSWER and BEGIN of each token.
    """
    end = int(np.argmax((answers & ANSWER) > 0))
    return np.asarray(tokens[max(end - limit, 0) : end])


def answer_texts(template: ChatTemplate, messages: Sequence[Message]) -> list[list[Part]]:
    """The texts that a dialog is learned from, each in parts. UserError for a template that asks in another way."""
    whole, texts, position = template.render(messages, add_generation_prompt=False), [], 0
    parts: list[Part] = []
    for i in (i for i, message in enumerate(messages) if message["role"] == ANSWERING):
        asked = template.render(messages[:i])
        answered = template.render(messages[: i + 1], add_generation_prompt=False)
        if not answered.startswith(asked):
            raise UserError(f"the chat template writes message {i + 1} not where it asks for it: choose another")
        texts.append([(asked, False), (answered[len(asked) :], True)])
        if whole.startswith(answered) and len(asked) >= position:
            parts += [(whole[position : len(asked)], False), (whole[len(asked) : len(answered)], True)]
            position = len(answered)
    if len(parts) < 2 * len(texts):  # it is not written from front to back
        return texts
    return [[*parts, (whole[position:], False)]]


def encode_text(parts: Sequence[Part], tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Token ids (count,), and for each ANSWER or 0, and BEGIN for the first.

    Each part is encoded for itself, as when a model is asked. An answer ends with its last stop token: what a template
    writes after it, such as a line break, nobody asks a model for.
    """
    ids, flags = [], []
    for text, is_answer in parts:
        part = tokenizer.encode(text, special=True)
        stops = np.flatnonzero(np.isin(part, list(tokenizer.stop_ids)))
        end = stops[-1] + 1 if len(stops) else len(part)
        ids.append(part)
        flags.append(np.where(np.arange(len(part)) < (end if is_answer else 0), ANSWER, 0))
    tokens, kinds = np.concatenate(ids), np.concatenate(flags).astype(FLAGS)
    kinds[:1] |= BEGIN
    return tokens, kinds
