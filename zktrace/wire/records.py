"""Records of the client protocol (zookeeper.jute: org.apache.zookeeper.data and .proto).

Class names are upstream's, field names are upstream's in snake_case. One class per layout: an
opcode whose layout equals another's reuses its class in the opcode table. Keeper records (500 and
up) are those of ClickHouse Keeper; see `keeper`.
"""

from __future__ import annotations

from zktrace.wire.codec import Record, record
from zktrace.wire.jute import Bool, Buffer, Byte, Int, Long, Rest, Tail, UString, Vector


@record
class Id(Record):
    """Who: an authentication scheme and an id in it. For `digest` the id holds a password hash."""

    scheme: UString
    id: UString


@record
class ACL(Record):
    """What one id may do: READ 1, WRITE 2, CREATE 4, DELETE 8, ADMIN 16."""

    perms: Int
    id: Id


@record
class Stat(Record):
    """A znode's bookkeeping as clients see it, 68 bytes. Times in ms since 1970.

    `ephemeral_owner`: 0 plain, a session id for an ephemeral, 0x8000000000000000 for a container,
    top byte 0xff for a TTL node.
    """

    czxid: Long
    mzxid: Long
    ctime: Long
    mtime: Long
    version: Int
    cversion: Int
    aversion: Int
    ephemeral_owner: Long
    data_length: Int
    num_children: Int
    pzxid: Long


@record
class StatPersisted(Record):
    """Stat as snapshots keep it, 60 bytes: without the two derived numbers."""

    czxid: Long
    mzxid: Long
    ctime: Long
    mtime: Long
    version: Int
    cversion: Int
    aversion: Int
    ephemeral_owner: Long
    pzxid: Long


@record
class ConnectRequest(Record):
    """First frame of a client; has no header. `read_only` is left out by old clients (44 bytes, not
    45), and then by the server too."""

    protocol_version: Int
    last_zxid_seen: Long
    timeout_ms: Int
    session_id: Long
    password: Buffer
    read_only: Tail[Bool] = None


@record
class ConnectResponse(Record):
    """First frame of a server. Session 0: refused (expired, or wrong password)."""

    protocol_version: Int
    timeout_ms: Int
    session_id: Long
    password: Buffer
    read_only: Tail[Bool] = None


@record
class RequestHeader(Record):
    """Before every request but ConnectRequest."""

    xid: Int
    type: Int


@record
class ReplyHeader(Record):
    """Before every reply but ConnectResponse; no body follows when `err` is not 0."""

    xid: Int
    zxid: Long
    err: Int


@record
class MultiHeader(Record):
    """Before every operation and every result of a multi; type -1 with `done` ends it."""

    type: Int
    done: Bool
    err: Int


@record
class WatcherEvent(Record):
    """Body of a watch event (reply xid -1)."""

    type: Int
    state: Int
    path: UString


@record
class ErrorResponse(Record):
    """A failed operation's result in a multi; also addWatch's reply."""

    err: Int


@record
class Empty(Record):
    """A message without a body."""


# --- requests -----------------------------------------------------------------------------------


@record
class PathRequest(Record):
    """GetACLRequest, SyncRequest, GetAllChildrenNumberRequest, DeleteContainerRequest."""

    path: UString


@record
class PathWatchRequest(Record):
    """ExistsRequest, GetDataRequest, GetChildrenRequest, GetChildren2Request."""

    path: UString
    watch: Bool


@record
class PathVersionRequest(Record):
    """DeleteRequest, CheckVersionRequest."""

    path: UString
    version: Int


@record
class CreateRequest(Record):
    """create, create2, createContainer: `flags` is CreateMode.toFlag()."""

    path: UString
    data: Buffer
    acl: Vector[ACL]
    flags: Int


@record
class CreateTTLRequest(Record):
    """createTTL: `ttl` in ms."""

    path: UString
    data: Buffer
    acl: Vector[ACL]
    flags: Int
    ttl: Long


@record
class SetDataRequest(Record):
    path: UString
    data: Buffer
    version: Int


@record
class SetACLRequest(Record):
    """`version` is the expected aversion."""

    path: UString
    acl: Vector[ACL]
    version: Int


@record
class ReconfigRequest(Record):
    """Servers as text; null where not given; `cur_config_id` -1 = any."""

    joining_servers: UString
    leaving_servers: UString
    new_members: UString
    cur_config_id: Long


@record
class WatchTypeRequest(Record):
    """CheckWatchesRequest, RemoveWatchesRequest: `type` is a WatcherType."""

    path: UString
    type: Int


@record
class AddWatchRequest(Record):
    """`mode`: 0 persistent, 1 persistent recursive."""

    path: UString
    mode: Int


@record
class AuthPacket(Record):
    """`auth` holds the credential in clear."""

    type: Int
    scheme: UString
    auth: Buffer


@record
class SetWatches(Record):
    relative_zxid: Long
    data_watches: Vector[UString]
    exist_watches: Vector[UString]
    child_watches: Vector[UString]


@record
class SetWatches2(Record):
    relative_zxid: Long
    data_watches: Vector[UString]
    exist_watches: Vector[UString]
    child_watches: Vector[UString]
    persistent_watches: Vector[UString]
    persistent_recursive_watches: Vector[UString]


@record
class SaslToken(Record):
    """GetSASLRequest, SetSASLResponse: a secret."""

    token: Buffer


@record
class GetEphemeralsRequest(Record):
    prefix_path: UString


# --- replies ------------------------------------------------------------------------------------


@record
class CreateResponse(Record):
    """The name as created, with its sequence number if any."""

    created_path: UString


@record
class Create2Response(Record):
    created_path: UString
    stat: Stat


@record
class StatResponse(Record):
    """ExistsResponse, SetDataResponse, SetACLResponse."""

    stat: Stat


@record
class GetDataResponse(Record):
    """getData; and reconfig, where the data is the text of the new configuration."""

    data: Buffer
    stat: Stat


@record
class GetACLResponse(Record):
    acl: Vector[ACL]
    stat: Stat


@record
class GetChildrenResponse(Record):
    """getChildren, getEphemerals (where the names are whole paths)."""

    children: Vector[UString]


@record
class GetChildren2Response(Record):
    children: Vector[UString]
    stat: Stat


@record
class SyncResponse(Record):
    """Echoes the path of the request."""

    synced_path: UString


@record
class GetAllChildrenNumberResponse(Record):
    total_number: Int


@record
class ClientInfo(Record):
    auth_scheme: UString
    user: UString


@record
class WhoAmIResponse(Record):
    client_info: Vector[ClientInfo]


# --- ClickHouse Keeper --------------------------------------------------------------------------


@record
class FilteredListRequest(Record):
    """`list_type`: 0 all, 1 persistent only, 2 ephemeral only. A short-lived client wrote it as an
    int; then `tail` takes its last three bytes."""

    path: UString
    watch: Bool
    list_type: Byte
    tail: Rest


@record
class FilteredListWithStatsAndDataRequest(Record):
    path: UString
    watch: Bool
    list_type: Byte
    with_stat: Bool
    with_data: Bool


@record
class FilteredListWithStatsAndDataResponse(Record):
    """`stats` and `datas` belong to the children, in order; empty where not asked for."""

    children: Vector[UString]
    stat: Stat
    stats: Vector[Stat]
    datas: Vector[Buffer]


@record
class RemoveRecursiveRequest(Record):
    """`limit`: most nodes to remove; unsigned upstream."""

    path: UString
    limit: Int


@record
class ListRecursiveRequest(Record):
    """`limit`: most names to list; unsigned upstream."""

    path: UString
    limit: Int


@record
class CheckStatRequest(Record):
    """`expected`: a Stat whose fields of -1 match anything."""

    path: UString
    version: Int
    expected: Stat
