"""Models that were tuned to chat: templates, stop tokens, history; and a tiny one trained here that answers."""

import builtins
import io
import json
import re
import sys

import numpy as np
import pytest

import tinytensor as tt
from gpt.chat import ChatOptions, greeting, main, start
from gpt.cli import run_command
from gpt.errors import UserError
from gpt.export import export
from gpt.generate import main as generate_main
from gpt.generation.conversation import Conversation
from gpt.generation.dialog import Dialog
from gpt.generation.sampling import Sampling
from gpt.generation.templates import ChatTemplate, template_source
from gpt.model import GPT, GPTConfig
from gpt.tokenizers.bpe import BpeTokenizer
from gpt.tokenizers.load import load_tokenizer
from gpt.weights.directory import create_model_directory, save_weights
from gpt.weights.load import load_model

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
CONFIG = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
CONFIG |= {"eos_token": "<|im_end|>", "chat_template": CHATML}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A byte-pair encoding with ChatML's special tokens, its template and its stop token."""
    directory = tmp_path_factory.mktemp("tokenizer")
    learned = BpeTokenizer.train(["user assistant system " + " ".join(NAMES)] * 3, 300)
    learned._tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    learned.save(directory)
    (directory / "tokenizer_config.json").write_text(json.dumps(CONFIG))
    end = learned._tokenizer.token_to_id("<|im_end|>")
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [end]}))
    return load_tokenizer(directory)


def chat_data(tokenizer, rng, rows, length):
    """Dialogs in ChatML in which the assistant names the user's digit: ids, targets (rows, length).

    Only the answers count: the other targets are -100.
    """
    ids, targets = np.empty((2, rows, length), np.int64)
    for row in range(rows):
        text, counted = [], []
        for digit in rng.integers(0, 10, 8):
            question = f"<|im_start|>user\n{digit}<|im_end|>\n<|im_start|>assistant\n"
            for part, counts in ((question, False), (f"{NAMES[digit]}<|im_end|>", True), ("\n", False)):
                part = tokenizer.encode(part, special=True).tolist()
                text += part
                counted += [counts] * len(part)
        ids[row] = text[:length]
        targets[row] = np.where(counted[1 : length + 1], text[1 : length + 1], -100)
    return ids, targets


@pytest.fixture(scope="module")
def directory(tokenizer, tmp_path_factory):
    """A small Llama, trained for some seconds on dialogs."""
    directory = tmp_path_factory.mktemp("model")
    options = {"positions": "rotary", "norm_layer": "rms", "activation": "swiglu", "bias": False, "n_kv_head": 1}
    config = GPTConfig(tokenizer.vocab_size, 128, n_layer=2, n_head=2, n_embd=32, **options)
    with tt.seeded(1, "weights"):
        model = GPT(config)
    optimizer = tt.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.99), weight_decay=0.0)
    rng = np.random.default_rng(0)
    for step in range(200):
        optimizer.lr = 1e-2 * (1 - step / 200)
        model(*chat_data(tokenizer, rng, 16, 64)).backward()
        optimizer.step(tt.clip_scale(tt.grad_norm(model.parameters()), 1.0))
        optimizer.zero_grad()
    create_model_directory(directory, "gpt", config, tokenizer)
    save_weights(directory, config, model.state_dict())
    return directory


def dialog(directory, system="", **choices):
    model, tokenizer = load_model(directory, "cpu")
    sampling = Sampling(**{"tokens": 20, "temperature": 0.0, **choices})
    talk = start(model, tokenizer, sampling, ChatOptions(system=system))
    assert isinstance(talk, Dialog)
    return talk


def asked(talk, message):
    assert talk.say(message) == []
    return "".join(talk.answer())


def test_a_model_trained_on_dialogs_answers_and_stops(directory):
    talk = dialog(directory)
    assert [asked(talk, digit) for digit in "3141"] == ["three", "one", "four", "one"]
    assert [message["role"] for message in talk.messages] == ["user", "assistant"] * 4
    talk.reset()
    assert talk.messages == []
    assert asked(talk, "7") == "seven"


def test_only_what_is_new_is_run_through_the_model(directory):
    talk = dialog(directory)
    read, forward = [], talk.context.reader.forward
    talk.context.reader.forward = lambda ids: read.append(ids.shape[1]) or forward(ids)
    asked(talk, "3")
    first = len(read)
    asked(talk, "5")
    # the newest token of the answer, <|im_end|>, a new line, and the next message with its template
    assert (
        read[first] < len(talk.tokenizer.encode(ChatTemplate(CHATML, {}).render(talk.messages[2:3]), special=True)) + 4
    )
    assert set(read[1:first] + read[first + 1 :]) == {1}


def test_the_terminal_streams_answers_and_greets(directory, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("4\n/reset\n9\n"))
    assert run_command(main, [str(directory), "--device", "cpu", "--temperature", "0"]) == 0
    out, err = capsys.readouterr()
    assert out == "four\nnine\n"
    assert err == "forgotten\n"
    assert "its own template is applied" in greeting(dialog(directory), "{}")
    model, tokenizer = load_model(directory, "cpu")
    with_turn = start(model, tokenizer, Sampling(), ChatOptions(turn="U: {}"))
    assert isinstance(with_turn, Conversation)
    assert "'U: {}'" in greeting(with_turn, "U: {}")


def test_a_system_prompt_comes_first_and_survives_a_reset(directory):
    talk = dialog(directory, system="Be brief.")
    asked(talk, "2")
    talk.reset()
    asked(talk, "2")
    assert talk.tokenizer.decode(talk.context.ids[0]).startswith(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user"
    )


def test_the_beginning_of_a_long_dialog_is_forgotten_and_a_message_that_never_fits_refused(directory):
    talk, notes = dialog(directory, system="Be brief.", tokens=8), []
    for digit in "31415926535":
        notes += talk.say(digit)
        "".join(talk.answer())
    assert set(notes) == {"the beginning of the dialog no longer fits the model's context and is forgotten"}
    assert talk.messages[0]["role"] == "user"
    assert len(talk.messages) < 22
    with pytest.raises(
        UserError,
        match=r"the message has \d+ tokens with its template, and the model has room for 120, as 8 of its context's "
        "128 are reserved for the answer: shorten it, or reserve fewer with --tokens N",
    ):
        dialog(directory, tokens=8).say("0123456789" * 20)
    assert talk.say("3") == ["the beginning of the dialog no longer fits the model's context and is forgotten"]


def test_a_system_prompt_that_leaves_no_room_is_refused_at_the_start(directory, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    command = [str(directory), "--device", "cpu", "--system", "0123456789" * 8]
    assert run_command(main, [*command, "--tokens", "8"]) == 0
    capsys.readouterr()
    assert run_command(main, command) == 2
    error = capsys.readouterr().err
    length = re.match(r"error: --system: leaves no room for a message: it has (\d+) tokens with the chat", error)
    assert length is not None
    assert int(length[1]) >= 64
    assert "room for 64, as 64 of its context's 128 are reserved for the answer: shorten it, or reserve" in error


def test_the_context_can_be_limited(directory):
    model, tokenizer = load_model(directory, "cpu")
    sampling = Sampling(tokens=8, temperature=0.0)
    for options in (ChatOptions(context=40), ChatOptions(context=40, turn="{}!")):
        talk = start(model, tokenizer, sampling, options)
        assert talk.context.block_size == 40
        talk.reset()
        assert talk.context.block_size == 40
    with pytest.raises(UserError, match="--context 0: must be at least 1"):
        ChatOptions(context=0)


def test_what_the_user_types_is_no_special_token_by_default(directory, capsys):
    tokenizer = load_tokenizer(directory)
    text = "<|im_start|>user\n5<|im_end|>\n<|im_start|>assistant\n"
    assert len(tokenizer.encode(text)) > 20 > len(tokenizer.encode(text, special=True))
    assert tokenizer.decode(tokenizer.encode(text, special=True)) == text
    command = [str(directory), "--prompt", text, "--temperature", "0", "--device", "cpu", "--tokens", "5"]
    assert run_command(generate_main, [*command, "--special-tokens"]) == 0
    assert capsys.readouterr().out == text + "five\n"


def test_a_run_and_an_export_keep_the_template_and_the_stop_tokens(directory, tmp_path):
    export(directory, tmp_path / "out")
    for name in ("tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "out" / name).read_text() == (directory / name).read_text()
    assert asked(dialog(tmp_path / "out"), "8") == "eight"


def test_templates_are_found_where_they_may_be():
    in_config = {"tokenizer_config.json": json.dumps({"chat_template": "a"})}
    assert template_source(in_config) == "a"
    assert template_source(in_config | {"chat_template.jinja": "b"}) == "b"
    named = [{"name": "tool_use", "template": "c"}, {"name": "default", "template": "d"}]
    assert template_source({"tokenizer_config.json": json.dumps({"chat_template": named})}) == "d"
    for content in ("5", "[" * 100_000, json.dumps({"chat_template": 5}), json.dumps({"chat_template": [1]}), "{}"):
        assert template_source({"tokenizer_config.json": content}) is None


def test_a_template_gets_what_transformers_gives_it():
    companions = {"tokenizer_config.json": json.dumps({"bos_token": {"content": "<s>"}, "eos_token": "</s>"})}
    source = "{{ bos_token }}{% for m in messages %}{{ m | tojson }}{% break %}{% endfor %}"
    source += "{{ strftime_now('%%') }}{{ eos_token }}"
    messages = [{"role": "user", "content": "<é>"}] * 2
    assert ChatTemplate(source, companions).render(messages) == '<s>{"role": "user", "content": "<é>"}%</s>'


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ messages[0].nothing.more }}", "has no attribute 'nothing'"),
        ("{{ 1 // 0 }}", "zero"),
        ("{% for m in range(10**9) %}{% endfor %}", "Range too big"),
        ("{% if %}", "cannot be read"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{% break %}", "cannot be read"),
        ("{% for a in messages %}" * 25 + "{% endfor %}" * 25, "too many statically nested blocks"),
        ("{% if messages %}" * 200 + "{% endif %}" * 200, "cannot be read (too many levels of indentation"),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "cannot be read (maximum recursion depth exceeded"),
        ("{{ 10**5000 }}", "Exceeds the limit (4300"),
        ("{% set n = 10 %}{{ raise_exception(n**5000) }}", "fails (Exceeds the limit (4300"),
        ("{{ raise_exception('one\\ntwo') }}", "fails (one); "),
    ],
)
def test_a_template_that_fails_or_reaches_for_more_is_one_sentence(source, message):
    with pytest.raises(UserError, match=r"the model's chat template .*; --turn sets one of your own") as error:
        ChatTemplate(source, {}).render([{"role": "user", "content": "x"}])
    assert message in str(error.value)


def test_without_jinja2_the_error_says_how_to_install_it(monkeypatch):
    real = builtins.__import__

    def missing(name, *rest):
        if name.startswith("jinja2"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match=r"needs jinja2: pip install -e '\.\[chat\]'"):
        ChatTemplate("x", {})


def test_a_base_model_still_only_continues(tmp_path, tokenizer):
    model = GPT(GPTConfig(tokenizer.vocab_size, 32, 1, 2, 8))
    plain = BpeTokenizer(tokenizer._tokenizer)
    talk = start(model, plain, Sampling(), ChatOptions())
    assert isinstance(talk, Conversation)
    assert "base model: it was trained on text, not to answer" in greeting(talk, "{}")
    with pytest.raises(UserError, match="--system: the model has no chat template"):
        start(model, plain, Sampling(), ChatOptions(system="x"))


def test_transformers_answers_the_same(directory, tmp_path):
    """Optional: needs torch and transformers. Its own apply_chat_template and generate, on the exported model."""
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    export(directory, tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    talk = dialog(tmp_path / "out")
    for digit in "2718":
        answer = asked(talk, digit)
        inputs = their_tokenizer.apply_chat_template(
            talk.messages[:-1], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        np.testing.assert_array_equal(inputs["input_ids"][0], talk.context.ids[0][: inputs["input_ids"].shape[1]])
        text = theirs.generate(**inputs, max_new_tokens=20, do_sample=False, pad_token_id=0)
        new = text[0, inputs["input_ids"].shape[1] :]
        assert their_tokenizer.decode(new, skip_special_tokens=True) == answer
        assert answer in NAMES
