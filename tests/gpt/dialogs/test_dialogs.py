"""Dialogs as training data: lines of JSON, templates, which tokens count, windows; and a model that answers."""

import io
import json
import random
import sys
import textwrap

import numpy as np
import pytest

import train
from gpt.chat import main as chat_main
from gpt.cli import run_command
from gpt.corpus.tokens import ANSWER, BEGIN, open_tokens, verify_tokens
from gpt.dialogs.masking import CHATML, answer_texts, encode_text, first_question, special_tokens, stop_token
from gpt.dialogs.messages import has_dialogs, parse_messages, require_known_roles
from gpt.errors import UserError
from gpt.export import main as export_main
from gpt.generation.templates import ChatTemplate
from gpt.prepare import main as prepare_main
from gpt.tokenizers.bpe import BpeTokenizer
from gpt.tokenizers.load import load_tokenizer
from gpt.training.batches import Batches, EvalWindows, dialog_windows, windows

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
SHAPE = {"--n-layer": 2, "--n-head": 2, "--n-embd": 32, "--n-kv-head": 1, "--norm-layer": "rms", "--block-size": 64}
SHAPE |= {"--activation": "swiglu", "--positions": "rotary", "--eval-batches": 2, "--device": "cpu", "--processes": 1}
SHAPE |= {"--optimizer": "adamw", "--sample-interval": 0, "--warmup-steps": 0, "--eval-interval": 1000}
FLAGS = [str(word) for item in SHAPE.items() for word in item] + ["--no-bias"]
TURNS = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + (eos_token if m['role'] == 'assistant' else '') }}"
TURNS += "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
# as Qwen 3's: what an earlier answer was thought over with is left out once more follows
FORGETS = "{% for m in messages %}<|{{ m['role'] }}|>{{ '(hm)' if loop.last and m['role'] == 'assistant' }}"
FORGETS += "{{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"


def run(*argv):
    return run_command(train.main, [str(word) for word in argv])


def prepare(*argv):
    return run_command(prepare_main, [str(word) for word in argv])


def dialog(*contents):
    roles = ["user", "assistant"] * len(contents)
    return [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]


def write(path, dialogs):
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in dialogs))
    return path


@pytest.fixture(scope="module")
def chat_file(tmp_path_factory):
    """Dialogs in which the assistant names the user's digits."""
    draw = random.Random(0)
    digits = [[draw.randrange(10) for _ in range(draw.randint(1, 4))] for _ in range(300)]
    dialogs = [dialog(*(text for digit in row for text in (str(digit), NAMES[digit]))) for row in digits]
    return write(tmp_path_factory.mktemp("chat") / "chat.jsonl", dialogs)


@pytest.fixture(scope="module")
def prepared(chat_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "tokens"
    assert prepare(chat_file, "--out", out, "--vocab-size", 275, "--chat-template", "chatml") == 0
    return out


@pytest.fixture(scope="module")
def trained(prepared, tmp_path_factory):
    """A run of a small Llama on them."""
    out = tmp_path_factory.mktemp("runs") / "run"
    recipe = ["--steps", 200, "--batch-size", 8, "--lr", 0.01, "--min-lr", 0, "--schedule", "linear"]
    assert run(*FLAGS, *recipe, "--weight-decay", 0, "--data", prepared, "--out", out) == 0
    return out


def test_the_tokens_are_those_of_the_template_and_answers_are_marked(prepared, chat_file):
    tokens, tokenizer = open_tokens(prepared), load_tokenizer(prepared)
    verify_tokens(prepared, tokenizer.vocab_size)
    template = ChatTemplate(CHATML, {})
    rows = [json.loads(line)["messages"] for line in chat_file.read_text().splitlines()]
    written = {template.render(messages, add_generation_prompt=False) for messages in rows}
    for ids, flags in ((tokens.train, tokens.train_answers), (tokens.val, tokens.val_answers)):
        begins = np.flatnonzero(flags & BEGIN)
        for begin, end in zip(begins, [*begins[1:], len(ids)], strict=True):
            assert tokenizer.decode(ids[begin:end]) in written
        answers = tokenizer.decode(ids[flags & ANSWER > 0]).split("<|im_end|>")
        assert answers.pop() == ""
        assert set(answers) == set(NAMES)
    # the same ids as when the model is asked
    asked = tokenizer.encode(template.render(rows[0][:1]), special=True).tolist()
    begins = np.flatnonzero(tokens.train_answers & BEGIN)
    assert any(tokens.train[begin : begin + len(asked)].tolist() == asked for begin in begins)


def test_windows_begin_with_a_dialog_and_have_answers(prepared):
    tokens = open_tokens(prepared)
    places = dialog_windows(tokens.train_answers, 16)
    flags = np.asarray(tokens.train_answers)
    begins = np.flatnonzero(flags & BEGIN)
    for place in places:
        begin = begins[begins <= place][-1]
        assert (place - begin) % 16 == 0
        assert (flags[place + 1 : place + 17] & ANSWER).any()
        assert place + 16 < len(flags)
    missing = set(begins[begins + 16 < len(flags)]) - set(places)
    assert all(not (flags[begin + 1 : begin + 17] & ANSWER).any() for begin in missing)
    batches = Batches(tokens.train, 16, 1, tokens.train_answers)
    ids, targets = batches.rows(3, slice(0, 50))
    starts = batches.starts(3, 0, 50)
    assert set(starts) <= set(places)
    plain_ids, plain = windows(tokens.train, starts, 16)
    counted = targets != -100
    assert counted.any(axis=1).all()
    assert not counted.all()
    np.testing.assert_array_equal(ids, plain_ids)
    np.testing.assert_array_equal(targets[counted], plain[counted])
    np.testing.assert_array_equal(counted, flags[starts[:, None] + np.arange(1, 17)] & ANSWER > 0)
    np.testing.assert_array_equal(batches.rows(3, slice(20, 30))[1], targets[20:30])
    for _, targets in EvalWindows(tokens.val, 16, 4, 3, tokens.val_answers):
        assert (targets != -100).any(axis=1).all()


def test_a_model_trained_here_answers_in_its_format(trained, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("3\n1\n/reset\n7\n"))
    assert run_command(chat_main, [str(trained), "--temperature", "0", "--device", "cpu", "--tokens", "8"]) == 0
    assert capsys.readouterr().out == "three\none\nseven\n"
    val_loss = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])["val_loss"]
    assert val_loss < 0.2  # of answers alone: nobody could foresee the user's digits


def test_transformers_answers_the_same(trained, tmp_path, capsys, monkeypatch):
    """Optional: needs torch and transformers. The exported directory in its own apply_chat_template and generate."""
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    assert run_command(export_main, [str(trained), str(tmp_path / "out")]) == 0
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    monkeypatch.setattr(sys, "stdin", io.StringIO("2\n7\n1\n"))
    capsys.readouterr()
    assert (
        run_command(chat_main, [str(tmp_path / "out"), "--temperature", "0", "--device", "cpu", "--tokens", "8"]) == 0
    )
    answers, messages = capsys.readouterr().out.splitlines(), []
    for digit, answer in zip("271", answers, strict=True):
        messages.append({"role": "user", "content": digit})
        inputs = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        text = theirs.generate(**inputs, max_new_tokens=20, do_sample=False, pad_token_id=0)
        new = tokenizer.decode(text[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert new == answer == NAMES[int(digit)]
        messages.append({"role": "assistant", "content": answer})


def test_a_chat_model_is_tuned_by_its_own_template_or_another(trained, prepared, chat_file, tmp_path, capsys):
    flags = ["--init-from", trained, "--steps", 2, "--device", "cpu", "--processes", 1, "--sample-interval", 0]
    assert run(*flags, "--data", chat_file, "--lora-rank", 2, "--out", tmp_path / "own") == 0
    np.testing.assert_array_equal(open_tokens(tmp_path / "own").train, open_tokens(prepared).train)
    np.testing.assert_array_equal(open_tokens(tmp_path / "own").val_answers, open_tokens(prepared).val_answers)
    assert (tmp_path / "own/best/chat_template.jinja").read_text() == CHATML
    (tmp_path / "turns.jinja").write_text(TURNS)
    other = ["--chat-template", tmp_path / "turns.jinja", "--data", chat_file, "--out", tmp_path / "other"]
    assert run(*flags, *other) == 0
    tokenizer = load_tokenizer(tmp_path / "other/best")
    assert tokenizer.companions["chat_template.jinja"] == TURNS
    assert tokenizer.decode(open_tokens(tmp_path / "other").val[:7]).startswith("user: ")
    (tmp_path / "own/best/chat_template.jinja").write_text("x")
    capsys.readouterr()
    assert run_command(chat_main, [str(tmp_path / "own"), "--device", "cpu"]) == 2
    assert "best/chat_template.jinja: is not the file that was saved" in capsys.readouterr().err


def test_files_of_answers_are_verified(prepared, tmp_path, capsys):
    out = tmp_path / "run"
    assert run(*FLAGS, "--data", prepared, "--steps", 2, "--stop-after", 1, "--out", out) == 0
    for name in ("train.bin", "val.bin", "train.answers.bin", "val.answers.bin"):
        (out / name).write_bytes((prepared / name).read_bytes())
    assert run("--resume", out, "--stop-after", 1) == 0
    path = out / "val.answers.bin"
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)
    capsys.readouterr()
    assert run("--resume", out) == 2
    assert "val.answers.bin: is not the file that was prepared" in capsys.readouterr().err
    path.unlink()
    assert run("--resume", out) == 2
    assert "corrupt or missing" in capsys.readouterr().err


def test_a_preparation_is_resumed_to_the_same_bytes(prepared, chat_file, tmp_path, monkeypatch):
    out, encode = tmp_path / "out", "gpt.dialogs.preparation.answer_texts"
    monkeypatch.setattr("gpt.corpus.preparation.UNIT_BYTES", 2000)
    monkeypatch.setattr("gpt.corpus.sources.WHOLE_BYTES", 1)
    monkeypatch.setattr("gpt.corpus.sources.PIECE_BYTES", 2000)
    flags = [chat_file, "--out", out, "--vocab-size", 275, "--chat-template", "chatml", "--workers", 1]
    calls = []

    def interrupted(template, messages):
        calls.append(messages)
        if len(calls) == 150:
            raise KeyboardInterrupt
        return answer_texts(template, messages)

    with monkeypatch.context() as patch:
        patch.setattr(encode, interrupted)
        assert prepare(*flags) == 130
    assert (out / "state.json").exists()
    assert prepare(*flags) == 0
    for name in ("train.bin", "val.bin", "train.answers.bin", "val.answers.bin"):
        assert (out / name).read_bytes() == (prepared / name).read_bytes(), name


@pytest.fixture(scope="module")
def tokenizer():
    return BpeTokenizer.train(["user assistant hm a b c d"] * 3, 280, ["<|user|>", "<|assistant|>", "<|end|>"])


def test_a_template_that_forgets_gives_each_answer_a_text_of_its_own(tokenizer):
    template = ChatTemplate(FORGETS, {})
    first, second = answer_texts(template, dialog("a", "b", "c", "d"))
    assert first == [("<|user|>a<|end|><|assistant|>", False), ("(hm)b<|end|>", True)]
    assert second == [
        ("<|user|>a<|end|><|assistant|>b<|end|><|user|>c<|end|><|assistant|>", False),
        ("(hm)d<|end|>", True),
    ]
    assert special_tokens(FORGETS) == ["<|end|>", "<|assistant|>"]
    assert stop_token(template, tokenizer) == tokenizer.encode("<|end|>", special=True)[0]


def test_an_answer_ends_with_its_last_stop_token(tokenizer):
    end = int(tokenizer.encode("<|end|>", special=True)[0])
    with_stop = tokenizer.with_companions({"generation_config.json": json.dumps({"eos_token_id": end})})
    ids, flags = encode_text([("<|user|>a", False), ("b<|end|>c", True), ("d", False)], with_stop)
    assert tokenizer.decode(ids) == "<|user|>ab<|end|>cd"
    assert tokenizer.decode(ids[flags & ANSWER > 0]) == "b<|end|>"
    assert flags[0] == BEGIN
    _, flags = encode_text([("a", False), ("b c", True)], with_stop)
    assert (flags[1:] == ANSWER).all()  # without one, all of it counts


def test_a_template_that_asks_in_another_way_than_it_writes_is_refused():
    with pytest.raises(UserError, match="writes message 2 not where it asks for it"):
        answer_texts(ChatTemplate("{{ messages | length }}{{ add_generation_prompt }}", {}), dialog("a", "b"))


GOOD = json.dumps({"messages": dialog("a", "b")})
BAD_LINES = [
    ("{", "is not JSON"),
    ("[1]", "has no messages"),
    ('{"messages": []}', "has no messages"),
    ('{"text": "x"}', "has no messages"),
    ('{"messages": ["a"]}', "message 1 has no text as its role"),
    ('{"messages": [{"role": "user", "content": null}]}', "message 1 has no text as its content"),
    (json.dumps({"messages": dialog("a")}), "has no message with the role assistant"),
    (json.dumps({"messages": dialog("a", "b"), "tools": [{}]}), "it has tools, which would not be written"),
    (
        json.dumps({"messages": [{"role": "assistant", "content": "a", "weight": 0}]}),
        "message 1 has the weight 0, and all answers are learned: leave it out",
    ),
    (
        json.dumps({"messages": [*dialog("a"), {"role": "assistant", "content": None, "tool_calls": [{}]}]}),
        "message 2 has tool_calls, which would not be written",
    ),
    (json.dumps({"messages": dialog("a", " \n")}), "message 2 is an empty answer"),
    (
        json.dumps({"messages": dialog([{"type": "text", "text": "a"}, {"type": "image_url"}], "b")}),
        "message 1 has a part of type image_url: only parts of type text",
    ),
    (json.dumps({"messages": dialog([{"type": "text", "text": 1}], "b")}), "message 1 has no text as its content"),
    (
        json.dumps({"messages": [*dialog("a", "b"), {"role": "asistant", "content": "c"}]}),
        "message 3 has the role 'asistant' (did you mean assistant?), which the chat template does not name: it must "
        "be system, user or assistant",
    ),
    (json.dumps({"messages": [{"role": "bot", "content": "c"}, *dialog("a", "b")]}), "message 1 has the role 'bot'"),
    (
        json.dumps({"messages": dialog("raise", "b")}),
        "the model's chat template fails (no); --chat-template names another",
    ),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES, ids=[line for line, _ in BAD_LINES])
def test_a_bad_line_is_named_by_its_number(line, message, tmp_path, capsys):
    path, template = tmp_path / "chat.jsonl", tmp_path / "t.jinja"
    path.write_text(f"{GOOD}\n\n{GOOD}\n{line}\n{GOOD}\n")
    template.write_text(TURNS + "{% if messages[0]['content'] == 'raise' %}{{ raise_exception('no') }}{% endif %}")
    assert run(*FLAGS, "--data", path, "--chat-template", template, "--out", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}: line 4: {message}")
    assert error.count("\n") == 1
    assert sorted(each.name for each in tmp_path.iterdir()) == ["chat.jsonl", "t.jinja"]


def test_roles_are_those_that_every_template_knows_and_those_that_this_one_names():
    messages = [{"role": "tool", "content": "4"}, *dialog("a", "b")]
    require_known_roles(messages, CHATML + "{% if message.role == 'tool' %}{% endif %}")
    for role in ("tool", "developer", "User"):
        with pytest.raises(UserError, match=f"message 1 has the role '{role}'.* must be system, user or assistant"):
            require_known_roles([{"role": role, "content": "4"}, *dialog("a", "b")], CHATML)


def test_the_parts_of_a_message_are_its_text():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": " b"}]
    line = json.dumps({"messages": dialog(parts, "c"), "tools": [], "id": 3}).encode()
    assert parse_messages(line) == tuple(dialog("a b", "c"))


def test_a_first_line_that_is_no_dialog_is_named(tmp_path, capsys):
    path = tmp_path / "chat.jsonl"
    for line, message in [('{"mesages": []}', "has no messages"), ("{", "is not JSON")]:
        path.write_text(f"{line}\n{GOOD}\n")
        assert run(*FLAGS, "--data", path, "--chat-template", "chatml", "--out", tmp_path / "run") == 2
        assert capsys.readouterr().err.startswith(f"error: {path}: line 1: {message}")


def test_one_dialog_cannot_validate_itself(prepared, tmp_path, capsys):
    path = tmp_path / "chat.jsonl"
    path.write_text(GOOD)
    assert prepare(path, "--out", tmp_path / "out", "--tokenizer", prepared) == 2
    assert "chat.jsonl: needs at least two dialogs, so that one of them can validate" in capsys.readouterr().err


def test_dialogs_in_another_format_are_told_of_lines(tmp_path, capsys):
    (tmp_path / "a.json").write_text(f"[{GOOD}]")
    (tmp_path / "b.csv").write_text("messages\nx\n")
    for name in ("a.json", "b.csv"):
        assert run(*FLAGS, "--data", tmp_path / name, "--out", tmp_path / "run") == 2
        assert "dialogs are read from a single uncompressed .jsonl, one in each line" in capsys.readouterr().err


def test_dialogs_without_their_packages_name_the_extra(chat_file, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    for flags in (FLAGS, ["--init-from", trained, "--device", "cpu"]):
        assert run(*flags, "--data", chat_file, "--chat-template", "chatml", "--out", tmp_path / "run") == 2
        assert "this needs tokenizers: pip install -e '.[chat]'" in capsys.readouterr().err


def test_samples_are_an_answer_to_the_first_dialog_in_validation(trained, prepared, tmp_path, capsys):
    tokens, tokenizer = open_tokens(prepared), load_tokenizer(prepared)
    begin, first = tokenizer.decode(tokens.val[:64]).split("assistant\n")[:2]
    asked, answer = begin + "assistant\n", first.partition("<|im_end|>")[0]
    assert (trained / "sample.txt").read_text() == f"{asked}{answer}\n"
    flags = ["--init-from", trained, "--data", prepared, "--steps", 1, "--device", "cpu", "--processes", 1]
    capsys.readouterr()
    assert run(*flags, "--lr", 1e-9, "--min-lr", 0, "--sample-interval", 1, "--out", tmp_path / "run") == 0
    printed = capsys.readouterr().out
    assert "sample at step 0:\n" + textwrap.indent(asked + answer, "    ") in printed
    assert printed.endswith(f"talk to it: python -m gpt.chat {tmp_path / 'run'}\n")
    flags = np.array([BEGIN, 0, 0, ANSWER, ANSWER, BEGIN, ANSWER], np.uint8)
    assert first_question(np.arange(7), flags, 8).tolist() == [0, 1, 2]
    assert first_question(np.arange(7), flags, 2).tolist() == [1, 2]


def test_a_model_of_characters_learns_no_dialogs(chat_file, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("abcd " * 500)
    flags = [*FLAGS, "--steps", 1, "--data", tmp_path / "text.txt", "--out", tmp_path / "char"]
    assert run(*flags) == 0
    flags = ["--init-from", tmp_path / "char", "--device", "cpu", "--out", tmp_path / "run"]
    capsys.readouterr()
    assert run(*flags, "--data", chat_file) == 2
    assert "a model of characters has no special tokens, which dialogs need: take one" in capsys.readouterr().err
    (tmp_path / "other.txt").write_text("abcd " * 500 + "naïve")
    assert run(*flags, "--data", tmp_path / "other.txt") == 2
    found = "character 'n' in 'naïve' is none of the 5 characters of the model of --init-from"
    assert f"error: {tmp_path / 'other.txt'}: {found}" in capsys.readouterr().err


def test_mistakes_are_one_sentence(chat_file, prepared, tmp_path, capsys):
    (tmp_path / "endless.jinja").write_text("{% for m in messages %}{{ m['content'] }} {% endfor %}")
    (tmp_path / "text.txt").write_text("abc " * 300)
    out = ["--out", tmp_path / "run"]
    cases = [
        (["--data", chat_file], "has dialogs, and a new tokenizer needs a template to write them with"),
        (["--data", chat_file, "--chat-template", "nothing"], "--chat-template nothing: is neither chatml nor a file"),
        (
            ["--data", chat_file, "--chat-template", tmp_path / "endless.jinja"],
            "ends answers with none of the tokenizer",
        ),
        (["--data", prepared, "--chat-template", "chatml"], "was written with a template when it was prepared"),
        (
            ["--data", tmp_path / "text.txt", "--chat-template", "chatml"],
            "text.txt has no dialogs: they are in a .jsonl",
        ),
    ]
    for flags, message in cases:
        assert run(*FLAGS, *flags, *out) == 2, message
        assert message in capsys.readouterr().err
    assert prepare(chat_file, "--out", tmp_path / "x", "--tokenizer", "char", "--chat-template", "chatml") == 2
    assert "--tokenizer char: has no special tokens, which dialogs need; use bpe" in capsys.readouterr().err
    assert prepare(chat_file, "--out", tmp_path / "x", "--tokenizer", tmp_path) == 2
    assert not (tmp_path / "run").exists()


def test_a_file_has_dialogs_if_its_first_line_does(chat_file, tmp_path):
    assert has_dialogs(str(chat_file))
    for name, text in [
        ("a.txt", GOOD),
        ("b.jsonl", '{"text": "x"}'),
        ("c.jsonl", "{"),
        ("d.jsonl", ""),
        ("e.jsonl", "1"),
    ]:
        (tmp_path / name).write_text(text)
        assert not has_dialogs(str(tmp_path / name))
    (tmp_path / "f.jsonl").write_text('\n{"messages": [], "text": ""}')
    assert not has_dialogs(str(tmp_path / "f.jsonl"))
    assert has_dialogs(str(tmp_path / "f.jsonl"), "body")
    assert has_dialogs(str(tmp_path / "f.jsonl"), "messages")
    assert not has_dialogs(str(tmp_path))


def test_without_an_answer_in_any_window_there_is_nothing_to_train_on(prepared, monkeypatch, tmp_path, capsys):
    assert dialog_windows(np.array([BEGIN, 0, 0, 0, 0, ANSWER], np.uint8), 4).tolist() == []
    assert dialog_windows(np.array([BEGIN, 0, 0, 0, 0, ANSWER], np.uint8), 2).tolist() == []
    assert dialog_windows(np.array([BEGIN, 0, 0, 0, ANSWER, 0], np.uint8), 2).tolist() == [2]
    assert dialog_windows(np.array([BEGIN, 0, ANSWER, BEGIN, 0, ANSWER], np.uint8), 2).tolist() == [0, 3]
    monkeypatch.setattr("gpt.training.data.dialog_windows", lambda answers, block_size: answers[:0])
    assert run(*FLAGS, "--data", prepared, "--out", tmp_path / "run") == 2
    assert "has no window of 64 tokens with an answer for training" in capsys.readouterr().err
