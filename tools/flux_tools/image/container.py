"""Runs a container as deploy/ does: with a read-only root, without capabilities and without a network."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from flux_tools.image.engines import Config, ContainerEngine, Docker, ImageError, output_of

#: Bytes of /dev/shm.
SHARED_MEMORY = 2 * 2**30
#: Seconds that the container has to end after SIGTERM.
STOP_S = 120

#: Mounts what a container engine mounts, then runs a command. Runs as root in its own namespaces. $1: folder of the
#: image's files, $2: bytes of /dev/shm, $3: folder to mount at /models, or empty; the other arguments are the command.
_ENTER = """
set -e
root=$1 shared_memory=$2 models=$3
shift 3
mount --bind "$root" "$root"
[ -e "$root/etc/hosts" ] || echo 127.0.0.1 localhost >"$root/etc/hosts"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755,size=64k tmpfs "$root/dev"
for device in null zero full random urandom; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
ln -s /proc/self/fd "$root/dev/fd"
mkdir "$root/dev/shm"
mount -t tmpfs -o "nosuid,nodev,noexec,mode=1777,size=$shared_memory" tmpfs "$root/dev/shm"
mount -t tmpfs -o nosuid,nodev,noexec,mode=1777 tmpfs "$root/tmp"
if [ -n "$models" ]; then
    mount --bind "$models" "$root/models"
    mount -o remount,bind,ro "$root/models"
fi
mount -o remount,bind,ro "$root"
ip link set lo up
exec "$@"
"""


class Container(Protocol):
    def execute(self, command: Sequence[str], given: bytes = b"", user: str = "") -> bytes:
        """Run a command in the container. Returns its output.

        given: its input. user: default: the image's user. Raises ImageError: the command failed.
        """
        ...

    def stop(self) -> int:
        """Send SIGTERM to the first process, and wait until it ends. Returns its exit status."""
        ...

    def log(self) -> str: ...


@contextlib.contextmanager
def running(
    engine: ContainerEngine, tag: str, command: Sequence[str], variables: Mapping[str, str], models: Path | None
) -> Iterator[Container]:
    """Run a container until the block ends.

    command: replaces the image's command; empty: the image's. variables: added to the image's environment. models:
    folder to mount read-only at /models.
    """
    kind = DockerContainer if isinstance(engine, Docker) else NamespacesContainer
    container = kind(tag, engine.config(tag), command, variables, models)
    try:
        yield container
    except ImageError as error:
        raise ImageError(f"{error}\nThe end of the container's log:\n{container.log()[-4000:]}") from error
    finally:
        container.remove()


class DockerContainer:
    def __init__(
        self, tag: str, config: Config, command: Sequence[str], variables: Mapping[str, str], models: Path | None
    ) -> None:
        self._name = f"flux-triton-{uuid.uuid4().hex[:8]}"
        options = ["--read-only", "--tmpfs=/tmp", f"--shm-size={SHARED_MEMORY}", "--network=none", "--cap-drop=ALL"]
        options += ["--security-opt=no-new-privileges", *(f"--env={name}={value}" for name, value in variables.items())]
        if models is not None:
            options.append(f"--volume={models.resolve()}:/models:ro")
        if command:
            options.append(f"--entrypoint={command[0]}")
        output_of("docker", "run", "--detach", f"--name={self._name}", *options, tag, *command[1:])

    def execute(self, command: Sequence[str], given: bytes = b"", user: str = "") -> bytes:
        options = ["-i", *([f"--user={user}"] if user else [])]
        return _checked(
            subprocess.run(["docker", "exec", *options, self._name, *command], input=given, capture_output=True)
        )

    def stop(self) -> int:
        output_of("docker", "stop", f"--time={STOP_S}", self._name)
        return int(output_of("docker", "wait", self._name))

    def log(self) -> str:
        done = subprocess.run(["docker", "logs", self._name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return done.stdout.decode(errors="replace")

    def remove(self) -> None:
        output_of("docker", "rm", "--force", self._name)


class NamespacesContainer:
    """A container made with util-linux only; requires root.

    It replaces `buildah run`, which leaves the root writable if it isolates with chroot.
    """

    def __init__(
        self, tag: str, config: Config, command: Sequence[str], variables: Mapping[str, str], models: Path | None
    ) -> None:
        self._config = config
        self._variables = {**config.environment, **variables}
        self._name = output_of("buildah", "from", "--pull-never", tag).decode().strip()
        self._root = output_of("buildah", "mount", self._name).decode().strip()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        main = self._inside(command or (*config.entrypoint, *config.command), config.user)
        enter = ["sh", "-c", _ENTER, "enter", self._root, str(SHARED_MEMORY), str(models.resolve()) if models else ""]
        namespaces = ["--mount", "--pid", "--net", "--ipc", "--uts"]
        self._process = subprocess.Popen(
            ["unshare", *namespaces, "--fork", "--kill-child", *enter, *main],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def execute(self, command: Sequence[str], given: bytes = b"", user: str = "") -> bytes:
        namespaces = ["--mount", "--pid", "--net", "--ipc", "--uts"]
        enter = ["nsenter", f"--target={self._first_process()}", *namespaces]
        inside = self._inside(command, user or self._config.user)
        return _checked(subprocess.run([*enter, *inside], input=given, capture_output=True))

    def stop(self) -> int:
        output_of("kill", f"-{signal.SIGTERM.value}", str(self._first_process()))
        try:
            return self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            raise ImageError(f"the container was still running {STOP_S} s after SIGTERM") from None

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def remove(self) -> None:
        self._process.kill()
        self._process.wait()
        output_of("buildah", "umount", self._name)
        output_of("buildah", "rm", self._name)
        self._log.close()

    def _first_process(self) -> int:
        """Return the id, outside the namespaces, of their process 1."""
        for _ in range(100):
            if self._process.poll() is not None:
                raise ImageError(f"the container ended with exit status {self._process.returncode}")
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
            # While the script is still mounting, its root is not the image's.
            if children and Path(f"/proc/{children[0]}/root").readlink() != Path("/"):
                return int(children[0])
            time.sleep(0.1)
        raise ImageError("the container did not start")

    def _inside(self, command: Sequence[str], user: str) -> list[str]:
        variables = [f"{name}={value}" for name, value in self._variables.items()]
        uid, _, gid = user.partition(":")
        enter = ["setpriv", "--no-new-privs", "chroot", f"--userspec={uid}:{gid or uid}", "--groups=", self._root]
        return [*enter, "env", "-i", f"--chdir={self._config.folder}", *variables, *command]


def _checked(done: subprocess.CompletedProcess[bytes]) -> bytes:
    if done.returncode:
        said = (done.stdout + done.stderr).decode(errors="replace").strip()
        raise ImageError(f"a command in the container ended with exit status {done.returncode}: {said}")
    return done.stdout
