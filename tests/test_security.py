"""What SECURITY.md promises."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from run import ROOT
from vc_core.errors import UserError
from vc_core.submit.server import Server

PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")

SHOWN = {
    "run code": "checkpoint/test_reading.py::test_code_in_a_file_is_refused_and_not_run",
    "name a class, a file or an address": "test_specs.py::test_bad_specs_name_the_field",
    "name a file outside of these folders": "video/test_names.py::test_hostile_names_become_harmless_ones",
    "be evaluated as Python": "test_architecture.py::test_no_unsafe_calls",
    "write anywhere else": "test_security.py::test_a_run_uses_no_network_starts_nothing_and_writes_to_its_folder_only",
    "redirect to another server": "test_security.py::test_a_server_that_redirects_is_not_followed",
    "contain paths of your machine": "test_security.py::"
    "test_a_run_uses_no_network_starts_nothing_and_writes_to_its_folder_only",
    "It does not use the network": "test_supply.py::test_only_submit_uses_the_network_and_nothing_starts_processes",
    "It does not start programs": "test_supply.py::test_only_submit_uses_the_network_and_nothing_starts_processes",
    "It does not change settings": "test_architecture.py::"
    "test_the_pack_is_imported_on_a_machine_with_its_dependencies_alone",
    "It does not replace files": "test_files.py::test_an_existing_file_is_never_replaced",
    "`SHA256SUMS` records them": "test_supply.py::test_bundled_files_and_weights_of_the_tests_have_the_recorded_hashes",
    "says that nothing was checked": "test_run.py::"
    "test_an_audit_reports_vulnerabilities_and_never_takes_silence_for_safety",
}
"""The promises, and the test that shows each."""


@pytest.mark.parametrize("promise", SHOWN)
def test_each_promise_is_shown_by_a_test(promise: str) -> None:
    file, _, name = SHOWN[promise].partition("::")
    read = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    assert re.sub(r"\s+", " ", PAGE).count(promise) == 1
    assert name in {node.name for node in ast.walk(read) if isinstance(node, ast.FunctionDef)}


_WATCHED = """
import os, sys
from pathlib import Path

folder, lines = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
from vc_core import cli
import vc_core.bundled, av, PIL.Image, tqdm, torch
cli.main(["inspect", "models/videocrafter_small_t2v.safetensors"])
REFUSED = ("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "ctypes.dlopen")
MADE = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "shutil.rmtree")
allowed = (str(folder), os.devnull, "/dev/shm")

def watch(event, words):
    if event.startswith(REFUSED):
        raise RuntimeError(f"watched: {event} {words}")
    written = event == "open" and (isinstance(words[2], int) and words[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    if (written or event in MADE) and isinstance(words[0], (str, bytes)):
        path = os.path.abspath(os.fsdecode(words[0]))
        if not path.startswith(allowed) and not path.endswith(".pyc"):
            raise RuntimeError(f"watched: {event} {words}")

sys.dont_write_bytecode = True
sys.addaudithook(watch)
assert cli.main(["batch", str(lines), "--output", str(folder / "out"), "--quiet", "--set", "model=small"]) == 0
import socket
for refused in (socket.socket, lambda: (folder.parent / "elsewhere").write_text("x"), lambda: os.system("true")):
    try:
        refused()
    except RuntimeError:
        continue
    raise AssertionError("nothing was watched")
"""


def test_a_run_uses_no_network_starts_nothing_and_writes_to_its_folder_only(tmp_path: Path) -> None:
    """Both kinds of models, as a batch, under an audit hook of Python that refuses everything else."""
    lines = tmp_path / "lines.csv"
    picture = ROOT / "models" / "example_picture.png"
    lines.write_text(f"prompt,steps,frames,picture\na red square,2,3,\na red square,2,3,{picture}\n", encoding="utf-8")
    command = [sys.executable, "-c", _WATCHED, str(tmp_path), str(lines)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    videos = sorted((tmp_path / "out").glob("*.mp4"))
    assert len(videos) == 2
    for video in videos:
        assert str(ROOT).encode() not in video.read_bytes()
        assert str(tmp_path).encode() not in video.read_bytes()


class _Redirecting(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(302)
        self.send_header("Location", self.server.target)
        self.end_headers()

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def redirecting() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), _Redirecting) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("target", ["ftp://127.0.0.1/x", "file:///etc/passwd", "http://127.0.0.1:1/x"])
def test_a_server_that_redirects_is_not_followed(target: str, redirecting: HTTPServer) -> None:
    redirecting.target = target
    client = Server(f"http://127.0.0.1:{redirecting.server_port}", patience=0)
    for ask in (client.nodes, lambda: client.post({}, "1")):
        with pytest.raises(UserError, match="redirects to") as refused:
            ask()
        assert target in str(refused.value)


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://host/x", "data:text/plain,x", "127.0.0.1:8188"])
def test_only_addresses_of_servers_are_asked(address: str) -> None:
    with pytest.raises(UserError, match="is not the address of a server"):
        Server(address, patience=0)


def test_the_readme_and_the_guide_for_contributors_name_the_page() -> None:
    for page in ("README.md", "CONTRIBUTING.md"):
        assert "SECURITY.md" in (ROOT / page).read_text(encoding="utf-8")
