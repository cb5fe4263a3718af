"""One Triton server as a child process in a group of its own: start, wait until ready, stop, clean up."""

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
from flux_serving.launch.draining import wait_until_idle
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

#: Bytes of Triton's response cache, which keeps the context tokens of images seen before (12 MB each for FLUX.1).
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
    #: Instances of `flux_base`, where profile is `cpu`.
    cpu_instances: int = FLUX_BASE.cpu_instances
    #: Seconds after which a gRPC client is told to connect anew; its running calls go on. One that balances by a name
    #: learns only so which servers have come, and which are about to go.
    connection_age_s: int = 30
    #: Address that Triton's ports listen on.
    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    #: Seconds that running requests have when it is asked to stop.
    exit_timeout_s: int = 30
    #: Where Triton sends its spans, by OTLP over HTTP; empty: there are none.
    traces_url: str = ""
    #: Of RESTRICTED_APIS, those that need no key.
    allowed_apis: tuple[str, ...] = ()
    #: Opens the restricted APIs, in the header KEY_HEADER; empty: a random one.
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
    """One run of a Triton, a context manager: started on entry, ended with everything it started on exit; by SIGTERM,
    when it is idle.

    Without one of its models it is ended without asking: Triton would wait, for the whole exit timeout, for the models
    that lead to the dead one. A guardian ends it when this process is killed.
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
        self._guardian: Guardian | None = None
        self._is_gone = False
        #: Those of a server that is ready; before, there are none.
        self._models: list[ModelProcess] = []
        #: The models with too few processes when Triton became ready; empty if there were none.
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
        """Raises CannotStart: no repository, an incomplete checkpoint, a port in use, or no Triton that runs here."""
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
        """Raises CannotStart: the server ended, or is not ready in time; its log says why."""
        limit = time.monotonic() + timeout_s
        while time.monotonic() < limit:
            if (reason := self.failure()) is not None:
                raise CannotStart(f"{reason} before it was ready; its log says why")
            if self.is_ready():
                return
            if self.is_hung():
                raise CannotStart("Triton hangs at its start: it is not ready, but all models have loaded")
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
        """Whether the start hangs. Another one may succeed."""
        return self._start_watch is not None and not self._models and self._start_watch.is_hung()

    def failure(self) -> str | None:
        """Why it cannot serve: Triton has ended, or a model's process has, which Triton 2.51 does not notice.

        A process that ended before Triton was ready counts, too.
        """
        if (status := self.poll()) is not None:
            return f"Triton ended with {exit_reason(status)}"
        if self._missing:
            return f"a model's process has ended ({self._missing})"
        dead = sorted({found.model for found in self._models if not found.is_alive()})
        return f"a process of {', '.join(dead)} has ended; Triton's log may say why" if dead else None

    def replace_guardian(self) -> bool:
        """Start another guardian if the last one has ended. Returns whether it did. Raises OSError: it cannot."""
        guardian = self._guardian
        if guardian is None or not guardian.needs_replacement():
            return False
        self._guardian = None
        guardian.dismiss()
        self._start_guardian()
        return True

    def poll(self) -> int | None:
        """The server's exit status; None while it runs."""
        return self._process.poll() if self._process else None

    def wait(self) -> int:
        """Returns the server's exit status when it has ended.

        Raises ModelDied: a model's process ended under it.
        """
        assert self._process is not None, "not started"
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._process.wait(0.25)
            if (reason := self.failure()) is not None and self.poll() is None:
                raise ModelDied(reason)

    def drain(self) -> None:
        """Return when no image is in the making, or after the exit timeout.

        A Triton that stops refuses an ensemble's next model, and so loses what is half done; until then it works.
        """
        if self.poll() is None:
            wait_until_idle(
                f"{loopback_of(self.options.host)}:{self.options.metrics_port}", self.options.exit_timeout_s
            )

    def stop(self) -> None:
        """End the server, first by asking, then with its whole group, and remove what it left."""
        # One that still loads would first load to the end.
        if self._process is not None and self._models and not self._is_gone:
            self._process.terminate()
            wait_for_server(self.pid, self.options.exit_timeout_s + 10.0)
        self.kill()

    def kill(self) -> None:
        """End the server and everything it started, without asking, and remove what it left."""
        if self._process is not None and not self._is_gone:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(15)
            kill_group(self.pid)
            # From now on another group may have its id.
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
        """Compare the processes with the configuration after Triton has become ready, and keep the result."""
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
    """Raises CannotStart: there is none that can be written to."""
    try:
        return Path(tempfile.gettempdir())
    except OSError as error:
        raise CannotStart(f"/tmp cannot be written to, as Triton must: full, or read-only: {error.strerror}") from error
