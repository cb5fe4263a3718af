"""The server's folder of LoRA adapters: which there are, and those that stay in memory.

Files are looked for at every request, so a new one needs no restart, and one that was replaced is read anew.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from flux_contract.environment import LORA_VARIABLE, shown
from flux_contract.errors import InvalidRequest
from flux_contract.parameters import LORA
from flux_serving.network.lora import Adapter, read_adapter, summed
from flux_serving.network.transformer import Transformer
from flux_serving.sampling.sampling_parameters import Lora

_SUFFIX = ".safetensors"
#: Times that a file is read again because it changed meanwhile.
_ATTEMPTS = 3


class Version(NamedTuple):
    """A file as it is now. Every way to replace its content changes one of these: a rename the inode, a write ctime."""

    name: str
    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


Key = TypeVar("Key")
Kept = TypeVar("Kept")


class Adapters:
    """For one thread. Jobs keep what they use, so dropping an adapter here never harms one that runs."""

    def __init__(self, folder: Path | None, transformer: Transformer, count: int) -> None:
        """folder: None where the server has none. count: adapters, and sums of them, to keep."""
        self._folder = folder
        self._transformer = transformer
        self._count = count
        self._read: OrderedDict[Version, Adapter] = OrderedDict()
        self._adapted: OrderedDict[tuple[tuple[Version, float], ...], Transformer] = OrderedDict()

    def adapted(self, loras: Sequence[Lora]) -> Transformer:
        """The transformer with these adapters: the same object for the same ones, as long as it is kept.

        Raises InvalidRequest: there is no such adapter, or it is not for this transformer.
        """
        files = [self._file(lora.name) for lora in loras]
        versions = [self._version(file) for file in files]
        key = tuple((version, lora.scale) for version, lora in zip(versions, loras, strict=True))
        if key not in self._adapted:
            read = [self._adapter(file) for file in files]
            key = tuple((version, lora.scale) for (version, _), lora in zip(read, loras, strict=True))
            adapters = [(adapter, lora.scale) for (_, adapter), lora in zip(read, loras, strict=True)]
            self._adapted[key] = self._transformer.adapted(summed(adapters))
        return _used(self._adapted, key, self._count)

    def _adapter(self, file: Path) -> tuple[Version, Adapter]:
        """The file's adapter, and which version of the file it was read from."""
        version = self._version(file)
        if version not in self._read:
            version, adapter = self._read_unchanged(file)
            self._read[version] = adapter
        return version, _used(self._read, version, self._count)

    def _read_unchanged(self, file: Path) -> tuple[Version, Adapter]:
        """Read a file that does not change meanwhile; what a half-written one is refused for says nothing about it."""
        for _ in range(_ATTEMPTS):
            version = self._version(file)
            try:
                adapter = read_adapter(file, self._transformer)
            except InvalidRequest:
                if self._version(file) == version:
                    raise
            else:
                if self._version(file) == version:
                    return version, adapter
        raise InvalidRequest(
            f"{LORA.name}={shown(file.stem)!r} is being written, send the request again when it is complete"
        )

    def _file(self, name: str) -> Path:
        """Only what the folder lists: a name is no path."""
        if self._folder is None:
            raise InvalidRequest(
                f"{LORA.name}={name[:40]!r}, but this server has no adapters; {LORA_VARIABLE} names their folder"
            )
        found = (file for file in sorted(self._folder.glob(f"*{_SUFFIX}")) if file.is_file())
        files = {shown(file.name).removesuffix(_SUFFIX): file for file in found}
        if name not in files:
            raise InvalidRequest(f"{LORA.name}={name[:40]!r}, expected one of: {', '.join(files)[:1000] or '(none)'}")
        return files[name]

    def _version(self, file: Path) -> Version:
        try:
            found = file.stat()
        except OSError as error:
            raise InvalidRequest(
                f"{LORA.name}={shown(file.stem)!r} was just taken out of the server's folder"
            ) from error
        return Version(file.name, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _used(kept: OrderedDict[Key, Kept], key: Key, count: int) -> Kept:
    """The value under this key, which goes last of those that are dropped beyond so many."""
    kept.move_to_end(key)
    while len(kept) > count:
        kept.popitem(last=False)
    return kept[key]
