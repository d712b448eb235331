"""The interface over HTTP: answers, streams, errors in OpenAI's shape, clients that leave, many at once."""

import json
import socket
import threading
import time

import pytest

from tests.gpt.serve.conftest import PATIENCE, expected, serving

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_idle(engine):
    return not (engine.writing or engine._waiting or engine.reading)


def test_models_are_listed(client):
    status, answer = client.ask("/v1/models", method="GET")
    assert (status, answer["object"], [model["id"] for model in answer["data"]]) == (200, "list", ["plain"])
    assert client.ask("/v1/models/plain", method="GET") == (200, answer["data"][0])
    assert client.ask("/v1/models/gpt-4", method="GET")[1]["error"]["code"] == "model_not_found"


def test_a_completion_is_what_generate_writes(client, plain):
    status, answer = client.complete("abc", max_tokens=20, seed=7)
    assert status == 200
    text = expected(plain, "abc", tokens=20, seed=7)
    (choice,) = answer["choices"]
    assert choice == {"index": 0, "text": text, "logprobs": None, "finish_reason": "length"}
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 20, "total_tokens": 23}
    assert (answer["object"], answer["model"]) == ("text_completion", "plain")
    assert len(client.complete("abc")[1]["choices"][0]["text"]) == 16  # OpenAI's default
    assert client.complete("abc", temperature=0, max_tokens=9)[1]["choices"][0]["text"] == expected(
        plain, "abc", tokens=9, temperature=0.0
    )


def test_several_prompts_with_several_choices_each(client, plain):
    parameters = {"n": 2, "seed": 5, "max_tokens": 6, "echo": True}
    status, answer = client.complete(["ab", "fed"], **parameters)
    assert status == 200
    texts = [choice["text"] for choice in answer["choices"]]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert texts[0] == "ab" + expected(plain, "ab", tokens=6, seed=5)
    assert texts[2] == "fed" + expected(plain, "fed", tokens=6, seed=5)
    assert texts[0] != texts[1]
    assert texts[1][:2] == "ab"
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 24, "total_tokens": 29}
    ids = [client.app.served.tokenizer.encode(text).tolist() for text in ("ab", "fed")]
    assert [choice["text"] for choice in client.complete(ids, **parameters)[1]["choices"]] == texts
    one = client.complete(ids[0], **parameters)[1]["choices"]
    assert [choice["text"] for choice in one] == texts[:2]


def test_a_stream_has_the_same_text_in_pieces(client, plain):
    body = {"model": "plain", "prompt": "abc", "max_tokens": 20, "seed": 7, "n": 2, "echo": True}
    body["stream_options"] = {"include_usage": True}
    *chunks, last = client.events("/v1/completions", body)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 40
    assert {chunk["usage"] for chunk in chunks} == {None}
    assert len({chunk["id"] for chunk in chunks}) == 1
    texts, finishes = ["", ""], [None, None]
    for (choice,) in (chunk["choices"] for chunk in chunks):
        texts[choice["index"]] += choice["text"]
        finishes[choice["index"]] = choice["finish_reason"]
    assert texts[0] == "abc" + expected(plain, "abc", tokens=20, seed=7)
    assert finishes == ["length", "length"]
    assert len(chunks) > 10
    assert all("usage" not in chunk for chunk in client.events("/v1/completions", {"model": "plain", "prompt": "a"}))


def test_a_chat_is_written_by_the_models_template(chat_client, chatty):
    prompt = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    body = {"model": "chatty", "messages": HELLO, "seed": 3, "temperature": 0.7}
    ids = chat_client.app.served.tokenizer.encode(prompt, special=True).tolist()
    raw = {"model": "chatty", "prompt": ids, "seed": 3, "temperature": 0.7, "max_tokens": 40}
    text = chat_client.ask("/v1/completions", raw)[1]["choices"][0]["text"]
    status, answer = chat_client.ask(CHAT, body)
    assert status == 200
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": text}
    assert answer["object"] == "chat.completion"
    assert answer["usage"]["prompt_tokens"] == len(ids)
    chunks = [chunk["choices"][0] for chunk in chat_client.events(CHAT, body)]
    assert chunks[0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(chunk["delta"].get("content", "") for chunk in chunks) == text
    assert [chunk["finish_reason"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["finish_reason"] in ("stop", "length")
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    messages = [{"role": "user", "content": parts, "tool_calls": None, "name": "me"}]
    assert chat_client.ask(CHAT, {**body, "messages": messages})[1]["choices"] == answer["choices"]


MISTAKES = [  # what is added to a completion of "abc", status, parameter at fault, part of the message
    ({"prompt": "xyz"}, 400, "prompt", "character 'x' at position 0 is none of the 12 characters"),
    ({"prompt": 5}, 400, "prompt", "must be a text, a list of texts, or token ids"),
    ({"prompt": []}, 400, "prompt", "must be a text"),
    ({"prompt": [[]]}, 400, "prompt", "must be a text"),
    ({"prompt": [1, "a"]}, 400, "prompt", "must be a text"),
    ({"prompt": [12]}, 400, "prompt", "token ids from 0 to 11"),
    ({"prompt": [True]}, 400, "prompt", "must be a text"),
    ({"prompt": "a" * 96}, 400, "prompt", "context has 96 tokens, but the prompt has 96 and the answer may have 16"),
    ({"prompt": "a" * 90, "max_tokens": 7}, 400, "prompt", "context"),
    ({"prompt": ["a"] * 5, "n": 4}, 400, "prompt", "5 prompts with 4 choices each (n) are more than the 16 texts"),
    ({"max_tokens": 0}, 400, "max_tokens", "is 0, must be from 1 to 95"),
    ({"max_tokens": 10**400}, 400, "max_tokens", "must be from 1 to 95"),
    ({"max_tokens": 2.5}, 400, "max_tokens", "must be a whole number"),
    ({"max_completion_tokens": 5}, 400, "max_completion_tokens", "is not supported (did you mean max_tokens?)"),
    ({"n": 0}, 400, "n", "is 0, must be from 1 to 16"),
    ({"n": True}, 400, "n", "must be a whole number"),
    ({"temperature": -1}, 400, "temperature", "-1.0: must be at least 0"),
    ({"temperature": 10**400}, 400, "temperature", "is too large"),
    ({"user": 5}, 400, "user", "must be a text"),
    ({"metadata": 5}, 400, "metadata", "must be an object"),
    ({"service_tier": ["auto"]}, 400, "service_tier", "must be a text"),
    ({"best_of": True}, 400, "best_of", "is not supported"),
    ({"tool_choice": "required"}, 400, "tool_choice", "is not supported"),
    ({"functions": [{"name": "f"}]}, 400, "functions", "is not supported"),
    ({"temperature": "hot"}, 400, "temperature", "must be a number"),
    ({"top_p": 0}, 400, "top_p", "0.0: must be above 0"),
    ({"seed": -1}, 400, "seed", "must be at least 0"),
    ({"seed": 10**400}, 400, "seed", "must fit into 64 bits"),
    ({"seed": 2**63}, 400, "seed", "must fit into 64 bits"),
    ({"stop": ["a"] * 5}, 400, "stop", "a list of up to 4"),
    ({"stop": [""]}, 400, "stop", "none of them empty"),
    ({"stop": 5}, 400, "stop", "must be a text"),
    ({"stream": "yes"}, 400, "stream", "must be true or false"),
    ({"stream_options": {"include_usage": True}}, 400, "stream_options", "in a request with stream"),
    ({"stream": True, "stream_options": {"x": 1}}, 400, "stream_options", "include_usage"),
    ({"logprobs": 0}, 400, "logprobs", "is not supported"),
    ({"logprobs": 3}, 400, "logprobs", "is not supported"),
    ({"presence_penalty": 0.5}, 400, "presence_penalty", "is not supported"),
    ({"logit_bias": {"5": 1}}, 400, "logit_bias", "is not supported"),
    ({"best_of": 2}, 400, "best_of", "is not supported"),
    ({"suffix": "x"}, 400, "suffix", "is not supported"),
    ({"temprature": 1}, 400, "temprature", "is not supported (did you mean temperature?)"),
    ({"model": "gpt-4"}, 404, "model", "gpt-4 does not exist; this server has plain"),
    ({"model": None}, 400, "model", "must be given"),
    ({"model": 5}, 400, "model", "must be a text"),
    ({"model": ""}, 400, "model", "must be given"),
]


@pytest.mark.parametrize(("parameters", "status", "param", "message"), MISTAKES)
def test_a_mistake_is_named(client, parameters, status, param, message):
    for stream in [{}] if param == "stream_options" else [{}, {"stream": True}]:
        answered, answer = client.complete(**{"prompt": "abc", **stream, **parameters})
        error = answer["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert (answered, error["param"], error["type"]) == (status, param, "invalid_request_error")
        assert message in error["message"]
        assert len(error["message"]) < 600


def test_numbers_that_overflow_are_refused(client):
    for name in ("temperature", "repetition_penalty"):
        status, answer = client.ask(
            "/v1/completions", b'{"model": "plain", "prompt": "a", "%s": 1e400}' % name.encode()
        )
        assert (status, answer["error"]["message"]) == (400, f"{name}: is too large for a number")


def test_what_can_never_be_served_is_no_matter_of_trying_again(plain):
    with serving(plain, max_batch=2, max_queue=1, context=20) as client:
        status, answer = client.complete("a", n=4)
        assert (status, answer["error"]["message"]) == (400, "n: is 4, must be from 1 to 3")
        status, answer = client.complete(["a", "b"], n=2)
        assert (status, answer["error"]["param"]) == (400, "prompt")
        assert "2 prompts with 2 choices each (n) are more than the 3 texts" in answer["error"]["message"]
        assert client.complete("a", n=3, max_tokens=2)[0] == 200
        status, answer = client.complete("abc", max_tokens=20)
        assert (status, answer["error"]["message"]) == (400, "max_tokens: is 20, must be from 1 to 19")
        status, answer = client.complete("abc", max_tokens=19)
        assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
        assert "the server's --context is 20 tokens, but the prompt has 3" in answer["error"]["message"]


def test_what_asks_for_nothing_is_accepted(client):
    nothing = {"presence_penalty": 0.0, "frequency_penalty": 0, "logit_bias": {}, "best_of": 1, "logprobs": None}
    assert client.complete(user="me", metadata={"a": "b"}, suffix=None, **nothing)[0] == 200
    no_tools = {"tools": [], "functions": [], "parallel_tool_calls": True}
    for choice in ("auto", "none"):
        assert client.complete(tool_choice=choice, function_call=choice, **no_tools)[0] == 200


CHAT_MISTAKES = [
    ({"messages": []}, "messages", "at least one message"),
    ({"messages": "hello"}, "messages", "must be a list"),
    ({"messages": ["hello"]}, "messages[0]", "must be an object"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "must be one of system, developer, user"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "must be a text"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content", "parts of type text"),
    ({"messages": [{"role": "user", "content": "x", "tool_calls": [1]}]}, "messages[0].tool_calls", "not supported"),
    ({"messages": [{"role": "user", "content": "x", "name": 0}]}, "messages[0].name", "must be a text"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, "messages", "the user speaks first"),
    ({"messages": [{"role": "user", "content": "hello " * 200}]}, "messages", "context has 128 tokens"),
    ({"tools": [{"type": "function"}]}, "tools", "is not supported"),
    ({"response_format": {"type": "json_object"}}, "response_format", "is not supported"),
    ({"logprobs": True}, "logprobs", "is not supported"),
    ({"max_tokens": 3, "max_completion_tokens": 3}, "max_completion_tokens", "give one of them"),
    ({"max_completion_tokens": 41}, "max_completion_tokens", "must be from 1 to 40"),
    ({"prompt": "x"}, "prompt", "is not supported"),
]


@pytest.mark.parametrize(("parameters", "param", "message"), CHAT_MISTAKES)
def test_a_mistake_in_a_chat_is_named(chat_client, parameters, param, message):
    status, answer = chat_client.ask(CHAT, {"model": "chatty", "messages": HELLO, **parameters})
    assert (status, answer["error"]["param"]) == (400, param)
    assert message in answer["error"]["message"]
    assert "--turn" not in answer["error"]["message"]


def test_a_base_model_does_not_chat(client):
    status, answer = client.ask(CHAT, {"model": "plain", "messages": HELLO})
    assert (status, answer["error"]["code"]) == (400, "no_chat_template")
    assert answer["error"]["message"].startswith("the model has no chat template: it continues texts")


NESTED = b"[" * 200_000
BODIES = [b"", b"{", b"[]", b"5", NESTED, b'{"a": NaN}', b'{"a": ' + b"9" * 5000 + b"}", b'"\xff"', b"\x00", b"{} {}"]


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_a_body_that_is_no_object_is_refused(client, body):
    for path in ("/v1/completions", CHAT):
        status, answer = client.ask(path, body)
        assert (status, answer["error"]["type"]) == (400, "invalid_request_error")
        assert "body of the request" in answer["error"]["message"]


def test_a_body_that_is_too_large_is_refused(client):
    status, answer = client.ask("/v1/completions", b" " * ((1 << 20) + 1))
    assert (status, answer["error"]["type"]) == (413, "invalid_request_error")
    assert "1048577 bytes, but at most 1048576" in answer["error"]["message"]
    status, answer = client.ask("/v1/completions", b'{"model": "plain", "prompt": "' + b"a" * 1_000_000 + b'"}')
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")


def test_unknown_routes_and_methods(client):
    for path in ("/", "/v1", "/v1/embeddings", "/v1/completions/", "/v1/chat/completions/x", "/v1/../etc/passwd"):
        status, answer = client.ask(path, {})
        assert (status, answer["error"]["code"]) == (404, "unknown_url")
    status, answer = client.ask("/v1/models/", method="GET")
    assert (status, answer["error"]["message"]) == (404, "unknown URL (GET /v1/models/)")
    assert client.ask("/v1/completions", method="GET")[0] == 405
    assert client.ask("/v1/models", {})[0] == 405
    assert client.ask(CHAT, method="DELETE")[0] == 405


def test_other_sites_in_the_same_browser_are_refused(client):
    good = {"model": "plain", "prompt": "a", "max_tokens": 1}
    assert client.ask("/v1/completions", good, Host="evil.example")[0] == 403
    assert client.ask("/v1/completions", good, Host="[")[0] == 403
    assert client.ask("/v1/completions", good, Origin="https://evil.example")[0] == 403
    assert client.ask("/v1/completions", good, Origin="http://[")[0] == 403
    assert client.ask("/v1/completions", good, Host="localhost:1", Origin="http://localhost:1")[0] == 200


def test_a_client_without_a_key_is_refused(plain, tmp_path):
    (tmp_path / "keys").write_text("one\n\n two \n")
    good = {"model": "plain", "prompt": "a", "max_tokens": 1}
    with serving(plain, api_key_file=str(tmp_path / "keys")) as client:
        for key in ("one", "two"):
            assert client.ask("/v1/completions", good, Authorization=f"Bearer {key}")[0] == 200
        assert client.ask("/v1/completions", good, Authorization="bearer one")[0] == 200
        for wrong in ("", "one", "Bearer ", "Bearer onetwo", "one\xe9"):
            status, answer = client.ask("/v1/completions", good, Authorization=wrong)
            assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
        assert client.ask("/v1/models", method="GET")[0] == 401


def test_too_many_requests_are_refused_and_a_slow_one_ends(plain):
    with serving(plain, max_batch=1, max_queue=1, timeout=0.5) as client:
        engine, held = client.app.engine, threading.Event()
        begin = engine._begin
        engine._begin = lambda: held.wait(PATIENCE) and begin()
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(client.complete("a"))) for _ in range(2)]
        for thread in threads:
            thread.start()
        wait_until(lambda: client.app.open == 2)
        status, answer = client.complete("a")
        assert (status, answer["error"]["code"], answer["error"]["type"]) == (503, "overloaded", "server_error")
        for thread in threads:
            thread.join(PATIENCE)
        assert [(status, answer["error"]["code"]) for status, answer in answers] == [(504, "timeout")] * 2
        with client.send("/v1/completions", {"model": "plain", "prompt": "a", "stream": True}) as response:
            assert response.status == 200  # it has begun
            assert json.loads(response.read().removeprefix(b"data: "))["error"]["code"] == "timeout"
        held.set()
        wait_until(lambda: is_idle(engine))
        assert client.complete("a")[0] == 200


def test_a_body_that_does_not_come_is_not_waited_for(client, monkeypatch):
    monkeypatch.setattr("gpt.serve.app.BODY_SECONDS", 0.05)
    with socket.create_connection(("127.0.0.1", client.port), PATIENCE) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
        assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_row(client, stream):
    engine = client.app.engine
    advance, leaving = client.app.engine.batch.logits, threading.Event()
    engine.batch.logits = lambda tokens: leaving.wait(PATIENCE) and advance(tokens)
    try:
        with socket.create_connection(("127.0.0.1", client.port), PATIENCE) as connection:
            body = json.dumps({"model": "plain", "prompt": "a", "max_tokens": 90, "stream": stream}).encode()
            head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            wait_until(lambda: engine.writing)
            (choice,) = engine.writing
        wait_until(lambda: choice.cancelled)
        leaving.set()
        wait_until(lambda: is_idle(engine))
        assert choice.tokens <= 2
    finally:
        leaving.set()
        engine.batch.logits = advance


def test_fifty_at_once_among_clients_that_leave(client, plain):
    """Streams of fifty clients are whole while as many others leave at some point or send what is refused."""
    texts, failures = {}, []

    def stay(i):
        body = {"model": "plain", "prompt": "abcdef"[: 1 + i % 6], "max_tokens": 10 + i % 30, "seed": i % 7}
        chunks = client.events("/v1/completions", body)
        texts[i] = "".join(chunk["choices"][0]["text"] for chunk in chunks)

    def leave(i):
        body = {"model": "plain", "prompt": "abc", "max_tokens": 90, "stream": bool(i % 3)}
        with socket.create_connection(("127.0.0.1", client.port), PATIENCE) as connection:
            data = json.dumps(body).encode() if i % 5 else b"{"
            head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
            connection.sendall((head.encode() + data)[: None if i % 4 else 90])
            if i % 2:
                connection.recv(1 + 37 * i)

    def run(work, i):
        try:
            work(i)
        except Exception as error:
            failures.append((work.__name__, i, error))

    client.app.engine.capacity += 100
    threads = [threading.Thread(target=run, args=(work, i)) for i in range(50) for work in (stay, leave)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    client.app.engine.capacity -= 100
    assert not failures
    for i in (0, 17, 38, 49):
        prompt = "abcdef"[: 1 + i % 6]
        assert texts[i] == expected(plain, prompt, tokens=10 + i % 30, seed=i % 7)
    assert len(texts) == 50
    wait_until(lambda: is_idle(client.app.engine) and client.app.open == 0)


def test_openais_client_works(client, chat_client):
    openai = pytest.importorskip("openai")
    plain, chat = (
        openai.OpenAI(base_url=f"http://127.0.0.1:{c.port}/v1", api_key="none", max_retries=0)
        for c in (client, chat_client)
    )
    assert [model.id for model in plain.models.list()] == ["plain"]
    whole = plain.completions.create(model="plain", prompt="abc", max_tokens=9, seed=2)
    pieces = plain.completions.create(model="plain", prompt="abc", max_tokens=9, seed=2, stream=True)
    assert whole.choices[0].text == "".join(piece.choices[0].text for piece in pieces)
    ask = {"model": "chatty", "messages": HELLO, "seed": 1, "max_completion_tokens": 20}
    answer = chat.chat.completions.create(**ask).choices[0].message
    history = [*HELLO, answer.model_dump(), {"role": "user", "content": "hello"}]
    assert chat.chat.completions.create(**{**ask, "messages": history}).choices[0].message.role == "assistant"
    pieces = chat.chat.completions.create(**ask, stream=True)
    assert answer.content == "".join(piece.choices[0].delta.content or "" for piece in pieces)
    with pytest.raises(openai.NotFoundError, match="gpt-4 does not exist"):
        plain.completions.create(model="gpt-4", prompt="a")
    with pytest.raises(openai.BadRequestError, match="tools: is not supported") as error:
        chat.chat.completions.create(**ask, tools=[{"type": "function", "function": {"name": "f"}}])
    assert error.value.param == "tools"
