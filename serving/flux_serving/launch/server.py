"""One Triton server as a child process in a group of its own: start, wait until ready, stop, clean up."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from flux_serving.contract.pbtxt import DEFAULT_GPUS, render_all
from flux_serving.errors import CannotStart
from flux_serving.launch.draining import wait_until_idle
from flux_serving.launch.installation import find_installation
from flux_serving.launch.processes import Terminated, end_with_parent, refuse_taken
from flux_serving.launch.stubs import running_stubs
from flux_serving.launch.tracing import trace_arguments
from flux_serving.settings import PROGRESS_VARIABLE, Checkpoints

#: Bytes of Triton's response cache, which keeps the context tokens of pictures seen before (12 MB each for FLUX.1).
CACHE_BYTES = 512 * 2**20
#: The models share the cores. An OpenMP thread that spins long while it waits keeps the one that it waits for from
#: running (on two busy cores a denoising step of 6 ms took 400); one that never spins is woken too late.
_SHORT_SPIN = {"GOMP_SPINCOUNT": "10000"}
#: Heaps that glibc divides memory into. By default it makes up to eight for each core, and each one keeps the free
#: memory of its busiest moment: 150 closed HTTP streams added 85 MB to Triton (docs/memory.md).
_FEW_HEAPS = {"MALLOC_ARENA_MAX": "2"}


class ModelDied(Exception):
    """A model's process ended while the server ran."""


@dataclass(frozen=True)
class ServerOptions:
    repository: Path
    checkpoints: Checkpoints
    #: `cpu` or `k8s` for a committed profile, `gpu` for the default configs.
    profile: str = "cpu"
    #: Device ids, where profile is `gpu`; one instance of every GPU model on each.
    gpus: tuple[int, ...] = DEFAULT_GPUS
    #: Seconds after which a gRPC client is told to connect anew; its running calls go on. One that balances by a name
    #: learns only so which servers have come, and which are about to go.
    connection_age_s: int = 30
    #: Address that all ports listen on.
    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    #: Seconds that running requests have when it is asked to stop.
    exit_timeout_s: int = 30
    #: Where Triton sends its spans, by OTLP over HTTP; empty: there are none.
    traces_url: str = ""


class TritonServer:
    """A context manager: started on entry, ended with everything it started on exit; by SIGTERM, when it is idle.

    Without one of its models it is ended without asking: Triton would wait, for the whole exit timeout, for the models
    that lead to the dead one.
    """

    def __init__(self, options: ServerOptions, output: IO[bytes] | None = None) -> None:
        """output: where the server's log goes; None: where this process writes its own errors.

        Raises CannotStart: there is no room for temporary files.
        """
        self.options = options
        self._output = output
        # Also the beginning of the names of its shared-memory regions.
        self._name = f"flux-triton-{secrets.token_hex(4)}"
        self._folder = _temporary_folder() / self._name
        self._process: subprocess.Popen[bytes] | None = None
        self._stubs: set[int] = set()

    @property
    def http_url(self) -> str:
        return f"{self.options.host}:{self.options.http_port}"

    @property
    def grpc_url(self) -> str:
        return f"{self.options.host}:{self.options.grpc_port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def start(self) -> None:
        """Raises CannotStart: a checkpoint is incomplete, a port is taken, or no Triton can run here."""
        options = self.options
        if missing := options.checkpoints.missing():
            raise CannotStart("\n".join(missing))
        for port in (options.http_port, options.grpc_port, options.metrics_port):
            refuse_taken(options.host, port)
        self._folder.mkdir(mode=0o700)
        installation = find_installation(self._folder)
        repository, profile = self._repository()
        command = [
            str(installation.binary),
            f"--model-repository={repository}",
            *profile,
            "--disable-auto-complete-config",
            f"--cache-config=local,size={CACHE_BYTES}",
            f"--backend-config=python,shm-region-prefix-name={self._name}_",
            f"--grpc-max-connection-age={1000 * options.connection_age_s}",
            *(f"--{kind}-address={options.host}" for kind in ("http", "grpc", "metrics")),
            f"--http-port={options.http_port}",
            f"--grpc-port={options.grpc_port}",
            f"--metrics-port={options.metrics_port}",
            f"--exit-timeout-secs={options.exit_timeout_s}",
            *trace_arguments(options.traces_url),
            *installation.arguments,
        ]
        self._process = subprocess.Popen(
            command,
            env={**_SHORT_SPIN, **_FEW_HEAPS, **os.environ, **installation.environment, **self._model_variables()},
            stdin=subprocess.DEVNULL,
            stdout=self._output or sys.stderr,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )

    def wait_until_ready(self, timeout_s: float = 1800.0) -> None:
        """Raises CannotStart: the server ended, or is not ready in time; its log says why."""
        limit = time.monotonic() + timeout_s
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while time.monotonic() < limit:
            if (code := self.poll()) is not None:
                raise CannotStart(f"Triton ended with exit status {code} before it was ready; its log says why")
            with (
                contextlib.suppress(urllib.error.URLError, OSError),
                direct.open(f"http://{self.http_url}/v2/health/ready", timeout=5),
            ):
                self._stubs = running_stubs(self.pid)
                return
            time.sleep(0.2)
        raise CannotStart(f"Triton was not ready after {timeout_s:g} s")

    def poll(self) -> int | None:
        """The server's exit status; None while it runs."""
        return self._process.poll() if self._process else None

    def wait(self) -> int:
        """Returns the server's exit status when it has ended.

        Raises ModelDied: a model's process ended under it. Triton 2.51 neither starts it anew nor stops being ready.
        """
        assert self._process is not None, "not started"
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._process.wait(1)
            if not self._stubs <= running_stubs(self.pid) and self.poll() is None:
                raise ModelDied("a model's process has ended; its last words are in Triton's log")

    def drain(self) -> None:
        """Return when no picture is in the making, or after the exit timeout.

        A Triton that stops refuses an ensemble's next model, and so loses what is half done; until then it works.
        """
        if self.poll() is None:
            wait_until_idle(f"{self.options.host}:{self.options.metrics_port}", self.options.exit_timeout_s)

    def stop(self) -> None:
        """End the server, first by asking, then with its whole group, and remove what it left."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(self.options.exit_timeout_s + 10)
            self.kill()
        for region in Path("/dev/shm").glob(f"{self._name}_*"):
            region.unlink(missing_ok=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def kill(self) -> None:
        """End the server and everything it started, without asking.

        Returns when all are gone; a process may take a moment to die, so after 5 s at the latest.
        """
        assert self._process is not None, "not started"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
            for _ in range(100):
                # In a container this may be the first process, which the dead without a parent are given to.
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(-self.pid, os.WNOHANG)
                os.killpg(self.pid, 0)
                time.sleep(0.05)

    def __enter__(self) -> TritonServer:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is not None and issubclass(kind, Terminated):
                self.drain()
            elif kind is not None and issubclass(kind, ModelDied):
                self.kill()
        finally:
            self.stop()

    def _repository(self) -> tuple[Path, list[str]]:
        """The model repository to load, and the argument that picks a profile of it.

        It lies in a folder of our own: the stub cannot bear a space in its path (2.51). GPUs other than the committed
        ones get a copy with configs for them; the committed files stay.
        """
        options = self.options
        repository = self._folder / "model_repository"
        if options.profile != "gpu" or options.gpus == DEFAULT_GPUS:
            repository.symlink_to(options.repository.resolve(), target_is_directory=True)
            return repository, [] if options.profile == "gpu" else [f"--model-config-name={options.profile}"]
        shutil.copytree(options.repository, repository, ignore=shutil.ignore_patterns("__pycache__", "configs"))
        for path, text in render_all(options.gpus).items():
            if path.name == "config.pbtxt":
                (repository / path).write_text(text)
        return repository, []

    def _model_variables(self) -> Mapping[str, str]:
        """What the models read from the environment. The folder for progress goes when ours does."""
        return {PROGRESS_VARIABLE: str(self._folder / "progress"), **self.options.checkpoints.as_environment()}


def _temporary_folder() -> Path:
    """Raises CannotStart: there is none that can be written to."""
    try:
        return Path(tempfile.gettempdir())
    except OSError as error:
        raise CannotStart(f"/tmp cannot be written to, as Triton must: full, or read-only: {error.strerror}") from error
