import hashlib
import http.server
import threading
from pathlib import Path

import pytest

from minidl import files


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/missing":
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", "1000" if self.path == "/short" else "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


SHA256 = hashlib.sha256(b"hello").hexdigest()
MD5 = hashlib.md5(b"hello").hexdigest()


def test_download_checks_and_names(server, tmp_path):
    path = files.download(f"{server}/file", tmp_path / "new" / "file", sha256=SHA256, md5=MD5)
    assert path.read_bytes() == b"hello"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("page", "digest", "message"),
    [
        ("missing", SHA256, "404"),
        ("short", SHA256, "5 of 1000 bytes|IncompleteRead"),
        ("file", "0" * 64, "wrong sha256: got 2cf24d"),
    ],
)
def test_failed_download_leaves_nothing(server, tmp_path, page, digest, message):
    with pytest.raises(ConnectionError, match=message):
        files.download(f"{server}/{page}", tmp_path / "file", sha256=digest)
    assert list(tmp_path.iterdir()) == []


def test_failed_download_keeps_the_old_file(server, tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(ConnectionError):
        files.download(f"{server}/short", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"old"


def test_next_mirror(server, tmp_path):
    urls = (f"{server}/missing", "http://127.0.0.1:9/closed", f"{server}/file")
    assert files.download(urls, tmp_path / "file", md5=MD5).read_bytes() == b"hello"


def test_file_url(tmp_path):
    (tmp_path / "source").write_bytes(b"hello")
    path = files.download((tmp_path / "source").as_uri(), tmp_path / "file", sha256=SHA256)
    assert path.read_bytes() == b"hello"


def test_atomic_write_failure_keeps_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), files.atomic_write(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_data_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("MINIDL_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("MINIDL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert files.data_folders() == [tmp_path / "data", tmp_path / "cache" / "minidl"]
    assert files.data_folders("given") == [Path("given")]
    monkeypatch.delenv("MINIDL_DATA")
    monkeypatch.setenv("MINIDL_CACHE", str(tmp_path / "own"))
    assert files.data_folders()[-1] == tmp_path / "own"
    monkeypatch.delenv("MINIDL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert files.data_folders() == [Path.home() / ".cache" / "minidl"]
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert files.data_folders() == [Path.home() / ".cache" / "minidl"]
