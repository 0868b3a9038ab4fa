"""The HTTP interface of ComfyUI: nodes, uploads, queue, history, files."""

from __future__ import annotations

import http.client
import json
import logging
import secrets
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ..errors import UserError

log = logging.getLogger(__name__)

T = TypeVar("T")

TIMEOUT, PAUSE = 60.0, 2.0
"""Seconds for an answer, and between tries."""


class RefusedError(UserError):
    """The server answered that it does not do this."""


class Server:
    """A ComfyUI server. patience: seconds that a server which does not answer is waited for, as while it restarts."""

    def __init__(self, url: str, patience: float) -> None:
        if not _is_address(url):
            raise UserError(f"{url!r} is not the address of a server. Give one such as http://127.0.0.1:8188.")
        if not patience >= 0:
            raise UserError(f"The patience is {patience:g} seconds; it should be 0 or more (--patience).")
        self.url, self.patience, self._opener = url.rstrip("/"), patience, _opener()

    def nodes(self) -> dict[str, Any]:
        """The inputs of every node."""
        return dict(self._json("/object_info"))

    def queued(self) -> set[str]:
        """The ids of the prompts that run or wait."""
        found = self._json("/queue")
        return {str(item[1]) for items in (found["queue_running"], found["queue_pending"]) for item in items}

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """What became of a prompt, None while it is not done or if the server does not know it."""
        found = self._json(f"/history/{prompt_id}").get(prompt_id)
        return None if found is None else dict(found)

    def post(self, prompt: Mapping[str, Any], prompt_id: str) -> str:
        """Puts a prompt into the queue; returns the id that the server gives it. Raises RefusedError."""
        body = json.dumps({"prompt": prompt, "prompt_id": prompt_id}).encode()
        return str(self._json("/prompt", body, "application/json")["prompt_id"])

    def upload(self, path: Path, name: str) -> str:
        """Puts a file into the input folder of the server; returns its name there."""
        border = secrets.token_hex(16)
        head = f'--{border}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'
        more = f'\r\n--{border}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\ntrue\r\n--{border}--\r\n'
        body = head.encode() + path.read_bytes() + more.encode()
        answer = self._json("/upload/image", body, f"multipart/form-data; boundary={border}")
        return "/".join(filter(None, (answer.get("subfolder"), answer["name"])))

    def fetch(self, file: Mapping[str, str], path: Path) -> None:
        """Writes a file of the server's folders to `path`."""
        wanted = {key: file[key] for key in ("filename", "subfolder", "type") if key in file}

        def copied(answer: Any) -> None:
            with path.open("wb") as out:
                shutil.copyfileobj(answer, out)
            if answer.length:
                raise http.client.IncompleteRead(b"", answer.length)

        self._asked(f"/view?{urllib.parse.urlencode(wanted)}", copied)

    def _json(self, path: str, body: bytes | None = None, kind: str = "") -> Any:
        data = self._asked(path, lambda answer: answer.read(), body, kind)
        try:
            return json.loads(data)
        except ValueError as error:
            raise UserError(f"{self.url}{path} does not answer as ComfyUI does. Check the address.") from error

    def _asked(self, path: str, read: Callable[[Any], T], body: bytes | None = None, kind: str = "") -> T:
        """What `read` makes of the answer; a server that does not answer, or not to the end, is asked again."""
        headers = {"Content-Type": kind} if kind else {}
        request = urllib.request.Request(self.url + path, body, headers)  # noqa: S310 - http or https, see __init__
        end, said = time.monotonic() + self.patience, False
        while True:
            try:
                with self._opener.open(request, timeout=TIMEOUT) as answer:
                    return read(answer)
            except urllib.error.HTTPError as error:
                raise RefusedError(_refusal(error)) from error
            except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
                if time.monotonic() >= end:
                    raise UserError(
                        f"The server {self.url} does not answer ({error}). Start it, or check the address (--server)."
                    ) from error
            if not said:
                log.warning("%s does not answer; waiting for it.", self.url)
                said = True
            time.sleep(PAUSE)


def _is_address(url: str) -> bool:
    """Whether requests can be made of it: a scheme, the name of a host, a port that is a number, a path of ASCII."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = (parts.hostname or "").encode("idna"), parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and host != b"" and (parts.path + parts.query).isascii()


def _opener() -> urllib.request.OpenerDirector:
    """Opens addresses of HTTP and HTTPS alone, through the proxy that the system names, without redirections: a server
    that is named is the only one that is asked."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def _refusal(error: urllib.error.HTTPError) -> str:
    """What the server says of a prompt or a file that it refuses."""
    with error:
        text = error.read().decode("utf-8", "replace")
    if error.headers.get("Location"):
        return f"The server redirects to {error.headers['Location']!r}. Give the address that answers (--server)."
    try:
        said = json.loads(text)
        nodes = [
            f"{each['message']}: {each['details']}" for node in said["node_errors"].values() for each in node["errors"]
        ]
        return f"The server refuses it: {'; '.join(nodes) or said['error']['message']}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"The server answers {error.code} {error.reason}."
