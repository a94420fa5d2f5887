"""The raw snapshot stream behind a SNAP packet, read to its end without keeping any of it.

Sessions, ACL cache, nodes depth first up to a lone path "/", and LearnerHandler's signature
(SerializeUtils.serializeSnapshot, DataTree.serialize; protocol reference, section 7.2). No magic
and no length: only reading it tells where it ends. A step is "skip some bytes, then read a few",
so that memory does not grow, whatever a snapshot holds. Must not know packets; never raises.
"""

from __future__ import annotations

#: Sessions and ACLs of one ensemble: more are not a count.
COUNT_MAX = 1 << 24
#: Largest string or buffer: no ensemble is run with a larger jute.maxbuffer.
SIZE_MAX = 64 * 1024 * 1024

SIGNATURE = b"BenWasHere"
_SESSION = 12  # id, timeout
_STAT = 68  # a node's ACL (8) and StatPersisted (60)

_SESSIONS, _ACLS, _ACL, _SCHEME, _ID, _PATH, _END, _DATA, _MARK, _SIGNATURE, _DONE, _BAD = range(12)


class SnapshotReader:
    """Takes a snapshot's bytes. `nodes` counts the root, and neither sessions nor ACLs."""

    __slots__ = ("_acls", "_buf", "_ids", "_need", "_skip", "_state", "bytes", "damaged", "nodes")

    def __init__(self) -> None:
        self.nodes = 0
        #: bytes of the stream so far, lost ones too
        self.bytes = 0
        #: bytes inside it were not captured
        self.damaged = False
        self._state = _SESSIONS
        self._skip = 0
        self._need = 4
        self._buf = b""
        self._acls = 0
        self._ids = 0

    @property
    def done(self) -> bool:
        """The stream is over."""
        return self._state == _DONE

    @property
    def broken(self) -> bool:
        """These bytes are no snapshot."""
        return self._state == _BAD

    def feed(self, data: bytes, pos: int) -> int:
        """Take bytes from data[pos:]; the position up to which they belong to the stream."""
        start = pos
        end = len(data)
        while self._state < _DONE:
            take = min(self._skip, end - pos)
            self._skip -= take
            pos += take
            if self._skip:
                break
            want = self._need - len(self._buf)
            self._buf += data[pos : pos + want]
            pos = min(pos + want, end)
            if len(self._buf) < self._need:
                break
            value, self._buf = self._buf, b""
            self._step(value)
        self.bytes += pos - start
        return pos

    def gap(self, missing: int) -> bool:
        """`missing` bytes were not captured; whether it is still known what comes next."""
        self.damaged = True
        if missing > self._skip:
            return False
        self._skip -= missing
        self.bytes += missing
        return True

    def _step(self, value: bytes) -> None:
        state = self._state
        if state == _SIGNATURE:
            self._state = _DONE if value == SIGNATURE else _BAD
            return
        if state == _END:
            # the lone path "/"; another path of one byte there is not
            self._expect(_MARK if value == b"/" else _BAD)
            return
        size = int.from_bytes(value, "big", signed=True)
        if not -1 <= size <= (COUNT_MAX if state <= _ACL else SIZE_MAX):
            self._state = _BAD
        elif state == _SESSIONS:
            self._skip = max(size, 0) * _SESSION
            self._expect(_ACLS)
        elif state == _ACLS:
            self._acls = max(size, 0)
            self._next_acl()
        elif state == _ACL:
            self._ids = max(size, 0)
            self._next_id()
        elif state == _SCHEME:
            self._skip = max(size, 0)
            self._expect(_ID)
        elif state == _ID:
            self._next_id()
            self._skip += max(size, 0)
        elif state == _PATH:
            if size == 1:
                self._expect(_END, 1)
            else:
                self._skip = max(size, 0)
                self._expect(_DATA if size >= 0 else _BAD)
        elif state == _DATA:
            self.nodes += 1
            self._skip = max(size, 0) + _STAT
            self._expect(_PATH)
        else:
            self._expect(_SIGNATURE if size == len(SIGNATURE) else _BAD, len(SIGNATURE))

    def _expect(self, state: int, need: int = 4) -> None:
        self._state = state
        self._need = need

    def _next_acl(self) -> None:
        if self._acls:
            self._acls -= 1
            self._skip = 8  # the id that nodes refer to
            self._expect(_ACL)
        else:
            self._skip = 0
            self._expect(_PATH)

    def _next_id(self) -> None:
        if self._ids:
            self._ids -= 1
            self._skip = 4  # perms
            self._expect(_SCHEME)
        else:
            self._next_acl()
