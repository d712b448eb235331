"""The command and what it serves: to whom, which routes, and what it says when it cannot."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

import tinytensor as tt
from gpt.cli import run_command
from gpt.web.__main__ import main
from gpt.web.folder import Folder
from gpt.web.models import Models

ROOT = Path(__file__).resolve().parents[3]
PATIENCE = 120  # seconds after which a subprocess must have got somewhere; reached only when it hangs


def test_an_empty_folder_ends_the_command(root, capsys):
    assert run_command(main, [str(root / "empty")]) == 2
    assert capsys.readouterr().err == f"error: {root}/empty: contains no run or model; train one with python train.py\n"


def test_the_default_folder_is_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_command(main, []) == 2
    assert capsys.readouterr().err.startswith("error: runs: no such folder; train a model")


def test_without_gradio_the_command_says_what_to_install(root, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.partition(".")[0] == "gradio"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("gpt.web.page", "gpt.web.server"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert run_command(main, [str(root), "--device", "cpu"]) == 2
    assert capsys.readouterr().err == "error: this needs gradio: pip install -e '.[web]'\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port", "65536"], "--port 65536: must be at most 65535"),
        (["--port", "-1"], "--port -1: must be at least 0"),
        (["--share"], "--share: unknown flag"),
    ],
)
def test_mistakes_are_one_sentence(root, capsys, flags, message):
    assert run_command(main, [str(root), *flags]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


class TestServer:
    """What needs Gradio."""

    @pytest.fixture(autouse=True)
    def _gradio(self):
        pytest.importorskip("gradio", reason="needs gradio: pip install -e '.[web]'")

    @pytest.fixture
    def client(self, root):
        """A function that makes a client of the application which listens on `host`."""
        from starlette.testclient import TestClient

        from gpt.web.page import Page
        from gpt.web.server import make_app

        page = Page(Folder(root), Models(Folder(root), tt.device("cpu")))
        return lambda host="127.0.0.1": TestClient(make_app(page, host), base_url="http://127.0.0.1:7860")

    def test_a_port_in_use_is_one_sentence(self, root, capsys):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            assert run_command(main, [str(root), "--port", str(port), "--device", "cpu"]) == 2
        error = f"error: --port {port}: cannot be used on 127.0.0.1 (Address already in use); choose another\n"
        assert capsys.readouterr().err == error

    @pytest.mark.parametrize(
        ("host", "message"), [("no.such.invalid", "is no address"), ("192.0.2.1", "cannot be used")]
    )
    def test_an_address_of_another_machine_is_one_sentence(self, root, capsys, host, message):
        assert run_command(main, [str(root), "--host", host, "--device", "cpu"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: --")
        assert message in error
        assert error.count("\n") == 1

    def test_only_the_routes_of_the_page_are_served(self, client):
        browser = client()
        assert browser.get("/").status_code == 200
        assert browser.get("/config").status_code == 200
        for path in ("/gradio_api/upload", "/upload", "/gradio_api/call/send", "/login"):
            assert browser.post(path, files={"files": b"import os"}).status_code == 404, path
        for path in ("/gradio_api/file=/etc/passwd", "/gradio_api/proxy=http://127.0.0.1/", "/docs"):
            assert browser.get(path).status_code == 404, path
        assert browser.get("/static/../../../etc/passwd").status_code in (404, 403)
        assert browser.put("/gradio_api/queue/join").status_code == 404
        assert browser.post("/gradio_api/queue/join", content=b"x" * (9 << 20)).status_code == 413
        assert browser.post("/gradio_api/queue/join", content=iter([b"{}"])).status_code == 413  # of unknown length

    def test_other_sites_in_the_same_browser_are_refused(self, client):
        assert client().get("/", headers={"host": "evil.example:7860"}).status_code == 403  # a name that resolves to us
        assert client().get("/", headers={"origin": "https://evil.example"}).status_code == 403
        assert client().get("/", headers={"host": "localhost:7860"}).status_code == 200
        assert client("0.0.0.0").get("/", headers={"host": "pc.local:7860"}).status_code == 200
        assert client("0.0.0.0").get("/", headers={"origin": "https://evil.example"}).status_code == 403

    def test_the_page_loads_nothing_from_elsewhere(self, client):
        answer = client().get("/")
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert not re.findall(r"""(?:src|href)=["']?https?://[^"' >]+""", answer.text)
        assert "fonts.googleapis" not in answer.text + client().get("/theme.css").text

    @pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)])
    def test_who_can_reach_the_page_is_said(self, root, monkeypatch, capsys, host, warned):
        import gpt.web.server

        ran = []
        monkeypatch.setattr(gpt.web.server, "make_server", lambda app: SimpleNamespace(run=ran.extend))
        assert run_command(main, [str(root), "--port", "0", "--host", host, "--device", "cpu"]) == 0
        (listener,) = ran
        out, err = capsys.readouterr()
        assert f"open http://{host}:{listener.getsockname()[1]} in a browser" in out
        assert err.startswith("warning: --host 0.0.0.0: everyone who reaches this machine can") == warned
        assert bool(err) == warned
        listener.close()

    def test_the_command_serves_until_ctrl_c(self, root):
        command = [sys.executable, "-m", "gpt.web", str(root), "--port", "0", "--device", "cpu"]
        server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            line = server.stdout.readline()
            assert "in a browser" in line, server.stderr.read()
            with urllib.request.urlopen(re.search(r"http://\S+", line)[0], timeout=PATIENCE) as page:
                assert b"tinytensor" in page.read()
            os.kill(server.pid, signal.SIGINT)
            out, errors = server.communicate(timeout=PATIENCE)
        finally:
            server.kill()
        assert (server.returncode, out, errors) == (130, "", "interrupted\n")
