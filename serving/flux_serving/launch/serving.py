"""Starts, supervises and ends Triton and the gateway together."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import IO, Any

from flux_serving.launch.gateway import START_S, Gateway
from flux_serving.launch.ports import reserved
from flux_serving.launch.processes import Terminated
from flux_serving.launch.server import ServerOptions, TritonServer
from flux_serving.launch.state import LauncherState, StateFile
from flux_serving.launch.supervisor import RestartPolicy, State, Supervised, all_ready, supervise

#: Seconds that Triton may take to stop after Ctrl-C. An idle Triton needs up to 10 s.
_INTERRUPTED_STOP_S = 12.0


class Serving:
    """Triton and its gateway. A context manager: starts both on entry and ends both on exit; after SIGTERM, once Triton
    is idle.

    Keeps this launcher's state file, which the probe reads.
    """

    def __init__(
        self,
        options: ServerOptions,
        make_gateway: Callable[[], Gateway] | None,
        policy: RestartPolicy,
        say: Callable[[str], None],
        output: IO[bytes] | None = None,
    ) -> None:
        """make_gateway: makes a gateway that is not started; None for no gateway. say: writes a line to the log.

        output: file of Triton's log; None: this process's stderr.
        """
        self._options = options
        self._make_gateway = make_gateway
        #: Reserves the ports from before the start until everything has ended.
        self._reserved = ExitStack()
        self._say = say
        self.triton = Supervised("Triton", lambda: TritonServer(options, output), policy, say)
        gateway_policy = replace(policy, start_timeout_s=START_S)
        self.gateway = make_gateway and Supervised("the gateway", make_gateway, gateway_policy, say)
        self._services: list[Supervised[Any]] = [self.triton, *([self.gateway] if self.gateway else [])]
        self._state = LauncherState(triton=f"{options.host}:{options.http_port}")
        self._state_file: StateFile | None = StateFile()

    def wait_until_ready(self) -> None:
        """Wait until both are ready. Raises CannotStart: a service failed before it was ready. Raises ServiceFailed."""
        supervise(self._services, lambda: all_ready(self._services), self._after_look)

    def run(self) -> None:
        """Serve until a signal raises. Raises ServiceFailed: a service failed and is not restarted."""
        supervise(self._services, lambda: False, self._after_look)

    def __enter__(self) -> Serving:
        """Raises CannotStart."""
        try:
            self._check()
            for service in self._services:
                service.start()
        except BaseException:
            self._kill()
            raise
        if self.gateway is not None and self.gateway.service is not None:
            self._state = replace(self._state, gateway=self.gateway.service.address)
        self._write_state()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None or issubclass(kind, (SystemExit, KeyboardInterrupt)):
                self._stop(drained=kind is not None and issubclass(kind, Terminated))
        finally:
            self._kill()

    def _check(self) -> None:
        """Reserve the ports and check the gateway's settings before anything starts. Raises CannotStart."""
        options = self._options
        gateway = self._make_gateway() if self._make_gateway else None
        ports = [options.http_port, options.grpc_port, options.metrics_port, *([gateway.port] if gateway else [])]
        self._reserved.enter_context(reserved(ports))
        if gateway is not None:
            gateway.check()

    def _stop(self, drained: bool) -> None:
        self._say(self._stop_message(drained))
        if self.gateway is not None and self.gateway.service is not None:
            self.gateway.service.stop()
        server = self.triton.service
        if server is not None:
            if drained:
                server.drain()
            server.stop(None if drained else _INTERRUPTED_STOP_S)
        self._say("stopped")

    def _stop_message(self, drained: bool) -> str:
        """Says which requests the stop waits for, and how many images are in progress."""
        images = self.triton.service.images_in_progress() if self.triton.service is not None else None
        count = "" if images is None else f" ({images} image{'' if images == 1 else 's'} in progress)"
        limit = f"waiting up to {self._options.exit_timeout_s} s for"
        if drained:
            return f"stopping: {limit} running requests{count}"
        if self.gateway is not None:
            return f"stopping: {limit} requests to the gateway, but not for requests sent to Triton directly{count}"
        return f"stopping without waiting for running requests{count}; SIGTERM waits for them"

    def _kill(self) -> None:
        for service in reversed(self._services):
            service.kill()
        if self._state_file is not None:
            self._state_file.remove()
        self._reserved.close()

    def _after_look(self) -> None:
        self._write_state()
        if self.triton.service is not None:
            try:
                if self.triton.service.replace_guardian():
                    self._say("Triton's guardian process has ended; started a new one")
            except OSError as error:
                self._say(f"Triton's guardian process has ended, and a new one cannot be started: {error}")

    def _write_state(self) -> None:
        if not (self.triton.was_ready and self.triton.state is not State.READY):
            self._state = replace(self._state, restarting_since=0.0)
        elif not self._state.restarting_since:
            self._state = replace(self._state, restarting_since=time.time())
        try:
            if self._state_file is not None:
                self._state_file.write(self._state)
        except OSError as error:
            self._say(f"the state file cannot be written, so the probe needs --host and --http-port: {error}")
            self._state_file = None
