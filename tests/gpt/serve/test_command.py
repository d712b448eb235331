"""The command: what it serves to whom, its mistakes in one sentence, and its end under load."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gpt.cli import run_command
from gpt.model import Bigram, GPTConfig
from gpt.planning.check import Limits
from gpt.planning.limits import Limit
from gpt.serve.__main__ import ServeOptions, main, make_app, model_name
from tests.gpt.serve.conftest import PATIENCE, Client, serving
from tests.gpt.web.conftest import write_model

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port", "65536"], "--port 65536: must be at most 65535"),
        (["--max-batch", "0"], "--max-batch 0: must be at least 1"),
        (["--context", "1"], "--context 1: must be at least 2"),
        (["--timeout", "0"], "--timeout 0.0: must be above 0"),
        (["--host", "0.0.0.0"], "--host 0.0.0.0: everyone who reaches this machine could use the model: set --api-key"),
        (["--host", "999.1.1.1"], "--host 999.1.1.1: is no address or host name"),
        (["--host", "a" * 70], f"--host {'a' * 70}: is no address or host name"),
        (["--api-key-file", "missing"], "--api-key-file missing: cannot be read"),
        (["--api-key-file", "empty"], "--api-key-file empty: has no key"),
        (["--api-key-file", "strange"], "--api-key-file strange: cannot be read"),
        (["--api-key-file", "pipe"], "--api-key-file pipe: cannot be read ([Errno 22] not a regular file"),
        (["--host", "no.such.invalid", "--api-key-file", "keys"], "--host no.such.invalid: is no address"),
        (["--api-key", "x"], "--api-key: unknown flag (did you mean --api-key-file?)"),
    ],
)
def test_mistakes_are_one_sentence(plain, tmp_path, monkeypatch, capsys, flags, message):
    pytest.importorskip("uvicorn")
    monkeypatch.chdir(tmp_path)
    Path("empty").write_text("\n \n")
    Path("strange").write_bytes(b"\xff\xfe")
    Path("keys").write_text("key\n")
    os.mkfifo("pipe")
    assert run_command(main, [str(plain), "--device", "cpu", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")


def test_without_uvicorn_the_command_says_what_to_install(plain, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "gpt.serve.server", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert run_command(main, [str(plain), "--device", "cpu"]) == 2
    assert capsys.readouterr().err == "error: this needs uvicorn: pip install -e '.[serve]'\n"


def test_a_bigram_model_is_refused(tmp_path, capsys):
    pytest.importorskip("uvicorn")
    write_model(tmp_path, Bigram)
    assert run_command(main, [str(tmp_path), "--device", "cpu"]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}: is a bigram model: only a GPT can be served\n"


def test_what_cannot_fit_is_refused(plain, monkeypatch, capsys):
    pytest.importorskip("uvicorn")
    tight = Limits(Limit(1 << 30, "this machine"), None, None)
    monkeypatch.setattr("gpt.planning.check.find_limits", lambda device: tight)
    monkeypatch.setattr("gpt.planning.memory.resident", lambda: 100 << 20)  # whatever other tests have imported
    config = GPTConfig(1000, 1024, n_layer=8, n_head=4, n_embd=512)
    monkeypatch.setattr("gpt.serve.__main__.model_config", lambda path: ("gpt", config))
    assert run_command(main, [str(plain), "--device", "cpu", "--max-batch", "100"]) == 2
    error = capsys.readouterr().err
    assert re.match(
        r"error: --max-batch 100: needs about .* GiB, this machine has 1.0 GiB; --max-batch \d+ would", error
    )


def test_a_model_is_called_after_its_place(plain, tmp_path, monkeypatch):
    assert model_name(str(plain)) == "plain"
    assert model_name("runs/first/best") == "first"
    assert model_name("hf:owner/name@main") == "owner/name"
    monkeypatch.chdir(tmp_path)
    assert model_name(".") == tmp_path.name
    app = make_app(str(plain), ServeOptions(device="cpu", name="mine", context=50, weights="int8"))
    assert (app.served.name, app.served.context) == ("mine", 50)
    assert app.hosts == ("127.0.0.1", "localhost", "::1")


def test_another_address_with_a_key_is_served_under_any_name(plain, tmp_path):
    (tmp_path / "keys").write_text("key")
    with serving(plain, host="0.0.0.0", api_key_file=str(tmp_path / "keys")) as client:
        known = {"Authorization": "Bearer key", "Host": "pc.local"}
        assert client.ask("/v1/models", method="GET", **known)[0] == 200
        assert client.ask("/v1/models", method="GET", Host="pc.local")[0] == 401


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_and_all_streams(plain, number):
    pytest.importorskip("uvicorn")
    command = [sys.executable, "-m", "gpt.serve", str(plain), "--port", "0", "--device", "cpu", "--max-batch", "2"]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline()
        assert line.startswith("plain at http://127.0.0.1:"), server.stderr.read()
        client = Client(int(re.search(r":(\d+)/v1", line)[1]), None)
        body = {"model": "plain", "prompt": "abc", "max_tokens": 90, "stream": True, "n": 16}
        begun, answers = threading.Barrier(5), []

        def read():
            with client.send("/v1/completions", body) as response:
                assert response.read(1)
                begun.wait(PATIENCE)
                answers.append(response.read())

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        begun.wait(PATIENCE)
        os.kill(server.pid, number)
        out, errors = server.communicate(timeout=PATIENCE)
        for thread in threads:
            thread.join(PATIENCE)
    finally:
        server.kill()
    assert (server.returncode, out, errors) == (130, "", "interrupted\n")
    assert len(answers) == 4
    assert any(b"the server is being ended" in answer for answer in answers)
