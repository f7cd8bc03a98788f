"""Asking for one interface, and changing it: what the changes of devices and of ports have in common."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from mlbd.kernel import links
from mlbd.kernel.links import Link
from mlbd.kernel.netlink import RefusedError, Requests


@contextmanager
def trying(what: str) -> Iterator[None]:
    """A refusal says what was tried, in front of the kernel's own words."""
    try:
        yield
    except RefusedError as error:
        raise RefusedError(error.errno or 0, f"{what}: {error.strerror}") from None


class LinkChanges:
    """Raises OSError, as `Requests` does."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    def find(self, name: str) -> Link | None:
        """None: there is no such interface."""
        try:
            return links.read_link(self._requests.get(links.GET, links.get_request(name)))
        except RefusedError as error:
            if error.errno == errno.ENODEV:
                return None
            raise

    def need(self, name: str) -> Link:
        """Raises OSError if there is no such interface."""
        link = self.find(name)
        if link is None:
            raise OSError(errno.ENODEV, f"there is no interface {name}")
        return link

    def all(self) -> list[Link]:
        dump = self._requests.dump(links.GET, links.DUMP_REQUEST)
        return [link for link in map(links.read_link, dump) if link is not None]

    def make(self, name: str, content: bytes, flags: int, *, up: bool) -> None:
        self._requests.request(links.NEW, flags, links.encode(0, content, name=name, up=up or None))

    def change(self, link: Link, content: bytes = b"", *, up: bool | None = None) -> None:
        self._requests.request(links.NEW, 0, links.encode(link.index, content, up=up))

    def delete(self, link: Link) -> None:
        self._requests.request(links.DELETE, 0, links.encode(link.index))

    def request(self, kind: int, flags: int, payload: bytes) -> None:
        self._requests.request(kind, flags, payload)
