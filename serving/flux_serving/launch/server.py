"""Runs a Triton server as a child process with its own process group: start, wait until ready, stop, clean up."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from flux_contract.environment import FOLDER_VARIABLE
from flux_contract.errors import CannotStart
from flux_contract.limits import TRITON_THREADS
from flux_contract.models import FLUX_BASE
from flux_rendering.pbtxt import DEFAULT_GPUS
from flux_serving.launch.draining import images_in_progress, wait_until_idle
from flux_serving.launch.ending import kill_group, remove_leftovers, wait_for_server
from flux_serving.launch.exposure import check_exposure, restriction_arguments
from flux_serving.launch.guardian import Guardian
from flux_serving.launch.installation import find_installation
from flux_serving.launch.instances import configured_instances, missing_processes
from flux_serving.launch.processes import Terminated, end_with_parent, exit_reason, refuse_taken
from flux_serving.launch.repository import assemble_repository
from flux_serving.launch.start_watch import StartWatch
from flux_serving.launch.stubs import ModelProcess, model_processes
from flux_serving.launch.tracing import trace_arguments
from flux_serving.launch.urls import fetch, loopback_of
from flux_serving.settings import Checkpoints

#: Bytes of Triton's response cache, which keeps the context tokens of recent images (12 MB each for FLUX.1).
CACHE_BYTES = 512 * 2**20
#: The models share the cores. An OpenMP thread that spins for long while it waits occupies the core that the awaited
#: thread needs (on two busy cores, a denoising step of 6 ms took 400 ms); a thread that never spins wakes up too late.
_SHORT_SPIN = {"GOMP_SPINCOUNT": "10000"}
#: Number of glibc's heaps. By default glibc makes up to eight for each core, and each heap keeps the memory of its
#: peak: 150 closed HTTP streams added 85 MB to Triton (docs/memory.md).
_FEW_HEAPS = {"MALLOC_ARENA_MAX": "2"}


class ModelDied(Exception):
    """A model's process ended while the server was running."""


@dataclass(frozen=True)
class ServerOptions:
    repository: Path
    checkpoints: Checkpoints
    #: `cpu` or `k8s` for a committed profile, `gpu` for the default configs.
    profile: str = "cpu"
    #: Device ids for profile `gpu`; each device runs one instance of every GPU model.
    gpus: tuple[int, ...] = DEFAULT_GPUS
    #: Instances of `flux_base` for profile `cpu`.
    cpu_instances: int = FLUX_BASE.cpu_instances
    #: Seconds after which a gRPC client must reconnect; its running calls continue. A client that balances over the
    #: addresses of a DNS name learns only by reconnecting which servers have been added and which are stopping.
    connection_age_s: int = 30
    #: Address that Triton's ports listen on.
    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    #: Seconds that running requests have to complete when the server stops.
    exit_timeout_s: int = 30
    #: URL to which Triton sends its spans, by OTLP over HTTP; empty: tracing is disabled.
    traces_url: str = ""
    #: Members of RESTRICTED_APIS that need no key.
    allowed_apis: tuple[str, ...] = ()
    #: Key of the restricted APIs, sent in the header KEY_HEADER; empty: a random key.
    api_key: str = ""
    #: Whether other machines may reach a Triton with published vulnerabilities.
    expose_vulnerable: bool = False

    @property
    def http_url(self) -> str:
        return f"{self.host}:{self.http_port}"

    @property
    def grpc_url(self) -> str:
        return f"{self.host}:{self.grpc_port}"


class TritonServer:
    """One run of a Triton. A context manager: starts on entry, and on exit ends Triton and everything that it started.

    SIGTERM (`Terminated`) waits until Triton is idle. A Triton whose model has died is killed at once: it would wait,
    for the whole exit timeout, for the models that depend on the dead one. A guardian ends Triton if this process is
    killed.
    """

    def __init__(self, options: ServerOptions, output: IO[bytes] | None = None) -> None:
        """output: file of the server's log; None: this process's stderr.

        Raises CannotStart: no temporary folder can be written to.
        """
        self.options = options
        self._output = output
        # Also the prefix of the names of the server's shared-memory regions.
        self._name = f"flux-triton-{secrets.token_hex(4)}"
        self._folder = _temporary_folder() / self._name
        self._process: subprocess.Popen[bytes] | None = None
        self._guardian: Guardian | None = None
        self._is_gone = False
        #: The models' processes; empty until the server is ready.
        self._models: list[ModelProcess] = []
        #: Describes the models that had too few processes when Triton became ready; empty if none had.
        self._missing = ""
        self._start_watch: StartWatch | None = None

    @property
    def http_url(self) -> str:
        return self.options.http_url

    @property
    def grpc_url(self) -> str:
        return self.options.grpc_url

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def start(self) -> None:
        """Start Triton.

        Raises CannotStart: the repository is missing, a checkpoint is incomplete, a port is in use, or Triton cannot
        run here.
        """
        options = self.options
        if not options.repository.is_dir():
            raise CannotStart(f"--model-repository={options.repository}: no such folder")
        if missing := options.checkpoints.missing():
            raise CannotStart("\n".join(missing))
        for port in (options.http_port, options.grpc_port, options.metrics_port):
            refuse_taken(options.host, port)
        self._folder.mkdir(mode=0o700)
        installation = find_installation(self._folder)
        check_exposure(options.host, installation.version, options.expose_vulnerable)
        repository = self._folder / "model_repository"
        unserved = options.checkpoints.unserved_modes()
        profile = assemble_repository(
            repository, options.repository, options.profile, options.gpus, unserved, options.cpu_instances
        )
        command = [
            str(installation.binary),
            f"--model-repository={repository}",
            *profile,
            "--disable-auto-complete-config",
            f"--cache-config=local,size={CACHE_BYTES}",
            f"--backend-config=python,shm-region-prefix-name={self._name}_",
            f"--backend-config=python,thread-pool-size={TRITON_THREADS}",
            f"--grpc-max-connection-age={1000 * options.connection_age_s}",
            *(f"--{kind}-address={options.host}" for kind in ("http", "grpc", "metrics")),
            f"--http-port={options.http_port}",
            f"--grpc-port={options.grpc_port}",
            f"--metrics-port={options.metrics_port}",
            f"--exit-timeout-secs={options.exit_timeout_s}",
            *restriction_arguments(options.api_key, options.allowed_apis),
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
        self._start_guardian()
        models = len(list(repository.glob("*/1/model.py")))
        self._start_watch = StartWatch(self._models_folder, models, lambda: model_processes(self.pid))

    def wait_until_ready(self, timeout_s: float = 1800.0) -> None:
        """Wait until the server is ready. Raises CannotStart: it ended, hangs, or is not ready after timeout_s."""
        limit = time.monotonic() + timeout_s
        while time.monotonic() < limit:
            if (reason := self.failure()) is not None:
                raise CannotStart(f"{reason} before it was ready; its log says why")
            if self.is_ready():
                return
            if self.is_hung():
                raise CannotStart("Triton hangs during start-up: all models have loaded, but it is not ready")
            time.sleep(0.2)
        raise CannotStart(f"Triton was not ready after {timeout_s:g} s")

    def is_ready(self) -> bool:
        """Whether Triton reports ready and each model has all of its processes. Checks once."""
        try:
            fetch(f"http://{loopback_of(self.options.host)}:{self.options.http_port}/v2/health/ready", 2)
        except OSError:
            return False
        return bool(self._models) or self._has_all_processes()

    def is_hung(self) -> bool:
        """Whether start-up hangs. Another start may succeed."""
        return self._start_watch is not None and not self._models and self._start_watch.is_hung()

    def failure(self) -> str | None:
        """Returns why the server cannot serve; None if it can.

        Either Triton has ended, or a model's process has, which Triton 2.51 does not notice. Processes that ended
        before Triton was ready count, too.
        """
        if (status := self.poll()) is not None:
            return f"Triton ended with {exit_reason(status)}"
        if self._missing:
            return f"a model's process has ended ({self._missing})"
        dead = sorted({found.model for found in self._models if not found.is_alive()})
        return f"a process of {', '.join(dead)} has ended; Triton's log may say why" if dead else None

    def replace_guardian(self) -> bool:
        """Start a new guardian if the last one has ended.

        Returns whether it did. Raises OSError: it cannot be started.
        """
        guardian = self._guardian
        if guardian is None or not guardian.needs_replacement():
            return False
        self._guardian = None
        guardian.dismiss()
        self._start_guardian()
        return True

    def poll(self) -> int | None:
        """Returns the server's exit status; None while it is running."""
        return self._process.poll() if self._process else None

    def wait(self) -> int:
        """Wait until the server ends. Returns its exit status.

        Raises ModelDied: a model's process ended.
        """
        assert self._process is not None, "not started"
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._process.wait(0.25)
            if (reason := self.failure()) is not None and self.poll() is None:
                raise ModelDied(reason)

    def images_in_progress(self) -> int | None:
        """Returns the number of images that wait or run; None if Triton does not answer."""
        return images_in_progress(self._metrics_url, 2) if self.poll() is None else None

    def drain(self) -> None:
        """Return when no request is in flight, or after the exit timeout.

        A stopping Triton refuses to run the next model of an ensemble, which loses the request, so it must not be
        stopped earlier.
        """
        if self.poll() is None:
            wait_until_idle(self._metrics_url, self.options.exit_timeout_s)

    def stop(self, limit_s: float | None = None) -> None:
        """End the server: send SIGTERM, then kill its process group and remove its temporary files.

        limit_s: seconds between the two; None: the exit timeout, for which Triton waits for running requests, and more.
        """
        # A Triton that is still loading is killed at once: after SIGTERM it would first finish loading.
        if self._process is not None and self._models and not self._is_gone:
            self._process.terminate()
            wait_for_server(self.pid, self.options.exit_timeout_s + 10.0 if limit_s is None else limit_s)
        self.kill()

    def kill(self) -> None:
        """Kill the server and everything that it started, and remove its temporary files."""
        if self._process is not None and not self._is_gone:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(15)
            kill_group(self.pid)
            # From now on another process group may have this id.
            self._is_gone = True
        remove_leftovers(f"{self._name}_", str(self._folder))
        if self._guardian is not None:
            self._guardian.dismiss()
            self._guardian = None

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

    def _has_all_processes(self) -> bool:
        """Compare the processes with the configuration once Triton is ready, and store the result."""
        options = self.options
        try:
            configured = configured_instances(options.host, options.http_port, 2)
        except OSError:
            return False
        models = model_processes(self.pid)
        self._missing = ", ".join(missing_processes(configured, Counter(found.model for found in models)))
        if self._missing:
            return False
        self._models = models
        if self._guardian is not None:
            self._guardian.server_is_ready()
        return True

    @property
    def _metrics_url(self) -> str:
        return f"{loopback_of(self.options.host)}:{self.options.metrics_port}"

    @property
    def _models_folder(self) -> Path:
        return self._folder / "models"

    def _start_guardian(self) -> None:
        grace_s = self.options.exit_timeout_s + 10.0
        self._guardian = Guardian(self.pid, grace_s, f"{self._name}_", str(self._folder))
        if self._models:
            self._guardian.server_is_ready()

    def _model_variables(self) -> Mapping[str, str]:
        """Environment variables for the models. Their folder is inside this server's folder and is removed with it."""
        return {FOLDER_VARIABLE: str(self._models_folder), **self.options.checkpoints.as_environment()}


def _temporary_folder() -> Path:
    """Returns the folder for temporary files. Raises CannotStart: no such folder can be written to."""
    try:
        return Path(tempfile.gettempdir())
    except OSError as error:
        raise CannotStart(f"Triton needs a writable /tmp, which is full or read-only: {error.strerror}") from error
