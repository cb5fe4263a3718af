"""A stand-in `tritonserver` for PATH that reports ready, with a small process for each instance of two models."""

from __future__ import annotations

import json
import sys
from pathlib import Path

_SERVER = """#!{python}
import json, os, subprocess, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

here = Path(__file__).parent
number = len(list(here.glob("run-*")))
(here / f"run-{{number}}").write_text(str(os.getpid()))
configured = {{"flux_base": 2, "flux_stream": 1}}
lost = json.loads((here / "lost").read_text()).get(str(number))
for model, count in configured.items():
    for _ in range(count - (model == lost)):
        subprocess.Popen([here / "triton_python_backend_stub", here / model / "1" / "model.py"])


class Answering(BaseHTTPRequestHandler):
    def do_GET(self):
        model = self.path.split("/")[3] if self.path.endswith("/config") else ""
        if model and model not in configured:
            self.send_error(400)
            return
        groups = [{{"count": configured.get(model, 1), "gpus": []}}]
        config = {{"name": model, "backend": "python", "instance_group": groups}}
        self.send_response(200)
        self.end_headers()
        if self.path == "/metrics":
            self.wfile.write((here / "metrics").read_bytes())
        else:
            self.wfile.write(json.dumps(config).encode() if model else b"")

    def log_message(self, *_):
        pass


time.sleep(float((here / "load_s").read_text()))
ports = [int(word.partition("=")[2]) for word in sys.argv if word.startswith(("--http-port=", "--metrics-port="))]
servers = [ThreadingHTTPServer(("127.0.0.1", port), Answering) for port in ports]
threading.Thread(target=servers[1].serve_forever, daemon=True).start()
servers[0].serve_forever()
"""


class StandInTriton:
    """Writes the stand-in to `folder`, which the test adds to PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        server = folder / "tritonserver"
        server.write_text(_SERVER.format(python=sys.executable))
        server.chmod(0o755)
        (folder / "triton_python_backend_stub").symlink_to(Path(sys.executable).resolve())
        for model in ("flux_base", "flux_stream"):
            (folder / model / "1").mkdir(parents=True)
            (folder / model / "1" / "model.py").write_text("import time\ntime.sleep(600)\n")
        self.lose({})
        self.load_for(0)
        self.report_metrics("")

    def lose(self, models: dict[int, str]) -> None:
        """End a process of a model before the server is ready. models: the model, by the number of the run, from 0."""
        (self.folder / "lost").write_text(json.dumps(models))

    def load_for(self, seconds: float) -> None:
        """Set the seconds that the server loads before it listens."""
        (self.folder / "load_s").write_text(str(seconds))

    def report_metrics(self, text: str) -> None:
        """Set the response of the metrics port, in Prometheus' text format."""
        (self.folder / "metrics").write_text(text)

    @property
    def pids(self) -> list[int]:
        """Process ids of the runs so far."""
        return [int(file.read_text()) for file in sorted(self.folder.glob("run-*"))]
