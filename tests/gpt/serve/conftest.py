"""What the tests of `gpt.serve` share: a model of few characters, one with a chat template, and a server of each."""

import contextlib
import http.client
import json
import threading

import pytest

import tinytensor as tt
from gpt.generation.sampling import Sampling
from gpt.generation.stream import stream
from gpt.model import GPT, GPTConfig
from gpt.serve.__main__ import ServeOptions, make_app
from gpt.tokenizers.bpe import BpeTokenizer
from gpt.tokenizers.load import load_tokenizer
from gpt.weights.directory import create_model_directory, save_weights
from gpt.weights.load import load_model
from tests.gpt.web.conftest import write_model

TEMPLATE = (
    "{% if messages[0].role == 'assistant' %}{{ raise_exception('the user speaks first') }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant{{ '\\n' }}"
)
PATIENCE = 60  # seconds after which something has to have happened; reached only when it hangs


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    """A base model of 12 characters, with a context of 96."""
    directory = tmp_path_factory.mktemp("serve") / "plain"
    directory.mkdir()
    write_model(directory, block_size=96)
    return directory


@pytest.fixture(scope="session")
def chatty(tmp_path_factory):
    """A model with random weights, a chat template and stop tokens."""
    directory = tmp_path_factory.mktemp("serve") / "chatty"
    directory.mkdir()
    learned = BpeTokenizer.train(["user assistant system hello world"] * 3, 270)
    learned._tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    learned.save(directory)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "chat_template": TEMPLATE}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_tokenizer(directory)
    options = {"positions": "rotary", "norm_layer": "rms", "activation": "swiglu", "bias": False, "n_kv_head": 1}
    config = GPTConfig(tokenizer.vocab_size, 128, n_layer=2, n_head=2, n_embd=32, **options)
    with tt.seeded(1, "weights"):
        model = GPT(config)
    create_model_directory(directory, "gpt", config, tokenizer)
    save_weights(directory, config, {name: 4 * value for name, value in model.state_dict().items()})
    return directory


def expected(directory, prompt, **choices):
    """What `gpt.generate` writes."""
    model, tokenizer = load_model(directory, "cpu")
    sampling = Sampling(**{"temperature": 1.0, **choices})
    return "".join(piece for _, piece in stream(model, tokenizer, prompt, sampling))


class Client:
    """A client of a server on this port, with a connection for each request."""

    def __init__(self, port, app):
        self.port, self.app = port, app

    @contextlib.contextmanager
    def send(self, path, body, method="POST", **headers):
        """The response to a request, not yet read; on leaving, the connection is closed."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            connection.request(method, path, data, headers)
            yield connection.getresponse()
        finally:
            connection.close()

    def ask(self, path, body=None, method="POST", **headers):
        """Status and JSON of the answer."""
        with self.send(path, body, method, **headers) as response:
            assert response.headers["content-type"] == "application/json"
            return response.status, json.loads(response.read())

    def complete(self, prompt="abc", **parameters):
        """Status and JSON of a completion."""
        return self.ask("/v1/completions", {"model": "plain", "prompt": prompt, **parameters})

    def events(self, path, body):
        """The objects of a stream, which has to end as OpenAI's do."""
        with self.send(path, {**body, "stream": True}) as response:
            assert response.status == 200
            assert response.headers["content-type"].startswith("text/event-stream")
            lines = response.read().decode().split("\n\n")
        assert lines[-2:] == ["data: [DONE]", ""]
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


@contextlib.contextmanager
def serving(directory, **options):
    """A Client of a server that a thread runs."""
    pytest.importorskip("uvicorn", reason="needs uvicorn: pip install -e '.[serve]'")
    from gpt.serve.listener import bind
    from gpt.serve.server import Server

    app = make_app(str(directory), ServeOptions(**{"device": "cpu", **options}))
    listener = bind("127.0.0.1", 0)
    server = Server(app)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield Client(listener.getsockname()[1], app)
    finally:
        app.engine.end()
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def client(plain):
    """A client of the base model, four texts at a time."""
    with serving(plain, max_batch=4, max_queue=60) as client:
        yield client


@pytest.fixture(scope="module")
def chat_client(chatty):
    """A client of the model with a template."""
    with serving(chatty, max_tokens=40) as client:
        yield client
