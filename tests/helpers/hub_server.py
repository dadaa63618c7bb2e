"""The Hugging Face hub's API on loopback, as far as a push needs it: repositories, commits, large files.

``with hub_server(monkeypatch) as hub``: whatever of this process asks the hub asks this server.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from loopback import Body, Fault, Loopback, _Handler

TOKEN = "hf_0123456789abcdefghijklmnopqrstuvwx"
LARGE = (".safetensors", ".bin", "tokenizer.json")  # as .gitattributes of the hub, and its limit, have it


@dataclass(frozen=True, kw_only=True)
class Request:
    """``line``: method and path. ``headers``: by their names in small letters."""

    line: str
    headers: Mapping[str, str]
    data: bytes


@dataclass
class Repo:
    """``files``: of the last commit, by name. ``tags``: those of the model card."""

    private: bool = False
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b"*.safetensors filter=lfs"})
    tags: tuple[str, ...] = ()


@dataclass
class HubServer(Loopback):
    """repos: by id. seen: all requests. failing: what a request gets, by a part of its line, in place of an answer."""

    repos: dict[str, Repo] = field(default_factory=dict)
    seen: list[Request] = field(default_factory=list)
    failing: dict[str, Fault] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)

    def handler(self) -> type[_Handler]:
        return _HubHandler

    @property
    def endpoint(self) -> str:
        return self.url.removesuffix("/v1")

    def answer(self, request: Request) -> Fault:
        self.seen.append(request)
        planted = next((fault for part, fault in self.failing.items() if part in request.line), None)
        if planted is not None:
            return planted
        method, path = request.line.split()
        if method != "PUT" and request.headers.get("authorization") != f"Bearer {TOKEN}":
            return failure(401, "Invalid username or password.")
        match method, path.strip("/").split("/"):
            case "POST", ["api", "repos", "create"]:
                return self.created(json.loads(request.data))
            case "POST", ["api", "validate-yaml"]:
                return answered({"errors": [], "warnings": []})
            case "PUT", ["large", digest]:
                assert hashlib.sha256(request.data).hexdigest() == digest
                self.stored[digest] = request.data
                return answered({})
            case "GET", ["api", "models", owner, name] if repo := self.repos.get(f"{owner}/{name}"):
                siblings = [{"rfilename": file} for file in repo.files]
                about = {"private": repo.private, "tags": repo.tags, "siblings": siblings}
                return answered({"id": f"{owner}/{name}", **about})
            case "POST", ["api", "models", owner, name, "preupload", "main"] if f"{owner}/{name}" in self.repos:
                return answered({"files": [mode(file) for file in json.loads(request.data)["files"]]})
            case "POST", [_, _, "info", "lfs", "objects", "batch"]:
                return answered({"transfer": "basic", "objects": self.uploads(json.loads(request.data))})
            case "POST", ["api", "models", owner, name, "commit", "main"]:
                return self.committed(f"{owner}/{name}", request.data)
        return failure(404, "Repository not found")

    def created(self, asked: Body) -> Fault:
        name = f"{asked['organization']}/{asked['name']}"
        status = 409 if name in self.repos else 200
        self.repos.setdefault(name, Repo(private=asked.get("visibility") == "private"))
        return Fault(status=status, body=json.dumps({"url": f"{self.endpoint}/{name}", "error": "you have it already"}))

    def uploads(self, asked: Body) -> list[Body]:
        actions = {o["oid"]: {"upload": {"href": f"{self.endpoint}/large/{o['oid']}"}} for o in asked["objects"]}
        return [o | ({} if o["oid"] in self.stored else {"actions": actions[o["oid"]]}) for o in asked["objects"]]

    def committed(self, name: str, data: bytes) -> Fault:
        repo = self.repos[name]
        for line in map(json.loads, data.splitlines()):
            value: dict[str, Any] = line["value"]
            match line["key"]:
                case "file":
                    repo.files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    repo.files[value["path"]] = self.stored[value["oid"]]
                case "deletedFile":
                    del repo.files[value["path"]]
        return answered({"commitUrl": f"{self.endpoint}/{name}/commit/1", "commitOid": "1"})


def mode(file: Body) -> Body:
    kind = "lfs" if file["path"].endswith(LARGE) else "regular"
    return {"path": file["path"], "uploadMode": kind, "shouldIgnore": False}


def answered(body: Body) -> Fault:
    return Fault(body=json.dumps(body))


def failure(status: int, words: str) -> Fault:
    return Fault(status=status, body=json.dumps({"error": words}), headers={"X-Error-Code": "Planted"})


class _HubHandler(_Handler):
    server_of: HubServer

    def do_GET(self) -> None:  # noqa: N802  http.server's name
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(line=f"{self.command} {self.path}", headers=headers, data=b"".join(self._sent()))
        self._send(self.server_of.answer(request))

    def _sent(self) -> Iterator[bytes]:
        """The body: whole, or in chunks, as large files come."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            yield self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def do_POST(self) -> None:  # noqa: N802  http.server's name
        self.do_GET()

    def do_PUT(self) -> None:  # noqa: N802  http.server's name
        self.do_GET()


@contextmanager
def hub_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """Online again, for this server alone; somebody is logged in."""
    from huggingface_hub import constants

    with HubServer() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its storage speaks another protocol
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub
