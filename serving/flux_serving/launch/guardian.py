"""The guardian: a small process that ends a server's process group if the launcher is killed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time

from flux_serving.launch import ending

#: Seconds after its start before a guardian that has ended is replaced. This limits the rate of restarts.
_REPLACE_S = 10.0
#: Seconds that a dismissed guardian has to end.
_DISMISS_S = 5.0


class Guardian:
    """The launcher's handle of the guardian process, connected by a pipe that closes when the launcher ends.

    The process has its own session, so that Ctrl-C does not reach it.
    """

    def __init__(self, group: int, grace_s: float, prefix: str, folder: str) -> None:
        """group: id of the server's process group. grace_s: seconds that it has for running requests.

        prefix: of the names of the server's shared-memory regions. folder: the server's temporary folder.
        """
        self._began = time.monotonic()
        reading, self._pipe = os.pipe()
        try:
            arguments = (str(reading), str(group), str(grace_s), prefix, folder)
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", ending.__file__, *arguments],
                pass_fds=(reading,),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        except BaseException:
            os.close(self._pipe)
            raise
        finally:
            os.close(reading)

    @property
    def pid(self) -> int:
        return self._process.pid

    def server_is_ready(self) -> None:
        """Tell the guardian that the server may have running requests from now on, for which it must wait."""
        self._write(ending.READY)

    def needs_replacement(self) -> bool:
        """Whether the guardian has ended without being dismissed."""
        return self._process.poll() is not None and time.monotonic() - self._began > _REPLACE_S

    def dismiss(self) -> None:
        """End the guardian: the launcher has cleaned up. May be called once."""
        self._write(ending.DONE)
        os.close(self._pipe)
        try:
            self._process.wait(_DISMISS_S)
        except subprocess.TimeoutExpired:
            # The guardian is stopped (SIGSTOP) or hangs.
            self._process.kill()
            self._process.wait()

    def _write(self, word: bytes) -> None:
        """Write to the guardian. Does nothing if it was killed."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._pipe, word)
