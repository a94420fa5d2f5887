"""What the compiled codecs promise, for every record class there is."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wire.strategies import of_record
from zktrace.wire.codec import Record, decode_nested, record
from zktrace.wire.fields import VectorOf, fields_of, least_size
from zktrace.wire.jute import (
    REST,
    Bool,
    Buffer,
    Byte,
    Int,
    Long,
    Rest,
    Tail,
    UString,
    Vector,
    WireError,
)
from zktrace.wire.records import (
    ACL,
    CreateRequest,
    FilteredListRequest,
    Id,
    PathRequest,
    SetWatches,
    Stat,
    StatPersisted,
)
from zktrace.wire.schema import all_records

RECORDS = all_records()
# There are many records, and each has few branches.
few = settings(max_examples=25)
every_record = pytest.mark.parametrize("cls", RECORDS, ids=lambda c: c.__name__)


@record
class Everything(Record):
    """All kinds of fields, and vectors of vectors."""

    a: Byte
    b: Bool
    c: Int
    d: Long
    e: UString
    f: Buffer
    g: Vector[Vector[Int]]
    h: Vector[ACL]
    i: Id
    j: Tail[Buffer] = None
    k: Tail[Id] = None


@every_record
@few
@given(data=st.data())
def test_round_trip(cls: type[Record], data: st.DataObject) -> None:
    value = data.draw(of_record(cls))
    assert cls.decode(value.encode()) == value


@given(value=of_record(Everything))
def test_round_trip_of_all_kinds(value: Everything) -> None:
    assert Everything.decode(value.encode()) == value


@every_record
@few
@given(data=st.data())
def test_any_cut_is_an_error(cls: type[Record], data: st.DataObject) -> None:
    whole = data.draw(of_record(cls)).encode()
    for size in range(len(whole)):
        error: WireError | None = None
        try:
            value = cls.decode(whole[:size])
        except WireError as e:
            error = e
        if error is not None:
            assert 0 <= error.offset <= size
            assert error.field.startswith(cls.__name__)
        else:
            # Only where the annotations allow less: a field that may be missing, or takes any rest.
            assert any(f.tail or f.type is REST for f in fields_of(cls))
            assert value.encode() == whole[:size]


@every_record
@few
@given(raw=st.binary(max_size=200))
def test_any_bytes_give_a_record_or_a_wire_error(cls: type[Record], raw: bytes) -> None:
    try:
        value, pos = cls.decode_from(raw, 0, len(raw))
    except WireError:
        return
    assert 0 <= pos <= len(raw)
    value.encode()


@every_record
@few
@given(raw=st.binary(max_size=60), at=st.integers(0, 40))
def test_nothing_beyond_the_end_is_read(cls: type[Record], raw: bytes, at: int) -> None:
    end = min(at, len(raw))

    def outcome(buf: bytes) -> object:
        try:
            return cls.decode_from(buf, 0, end)
        except WireError as e:
            return str(e)

    assert outcome(raw) == outcome(raw[:end])


@pytest.mark.parametrize(
    "raw",
    [
        b"\x7f\xff\xff\xff",
        b"\x00\x00\x00\x05abcd",
        b"\xff\xff\xff\xfe",
        b"\x80\x00\x00\x00",
    ],
)
def test_wrong_lengths_are_refused(raw: bytes) -> None:
    with pytest.raises(WireError) as e:
        PathRequest.decode(raw)
    assert (e.value.offset, e.value.field) == (0, "PathRequest.path")


def test_a_huge_count_allocates_nothing() -> None:
    vectors = [c for c in RECORDS if any(isinstance(f.type, VectorOf) for f in fields_of(c))]
    assert SetWatches in vectors
    raw = bytes(8) + b"\x7f\xff\xff\xff" * 1000
    for cls in vectors:
        for start in range(0, 24, 4):
            with pytest.raises(WireError):
                cls.decode(bytes(start) + b"\x7f\xff\xff\xff" + bytes(100))
    tracemalloc.start()
    with pytest.raises(WireError):
        SetWatches.decode(raw)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000


def test_counts_are_bounded_by_the_bytes_left() -> None:
    # Room for one ACL (12 bytes at least), a count of two.
    raw = b"\x00\x00\x00\x01/" + b"\xff\xff\xff\xff" + struct.pack(">i", 2) + bytes(20)
    with pytest.raises(
        WireError, match=r"CreateRequest\.acl: length 2 is beyond the 20 bytes left"
    ):
        CreateRequest.decode(raw)


def test_errors_say_where() -> None:
    raw = CreateRequest("/a", b"x", [ACL(31, Id("world", "anyone"))], 0).encode()
    with pytest.raises(WireError) as e:
        CreateRequest.decode(raw[:-1])
    assert (e.value.field, e.value.offset) == ("CreateRequest.flags", len(raw) - 4)
    with pytest.raises(WireError) as e:
        CreateRequest.decode(raw + b"!")
    assert (e.value.field, e.value.offset) == ("CreateRequest", len(raw))
    with pytest.raises(WireError) as e:
        Stat.decode(bytes(67))
    assert (e.value.field, e.value.offset) == ("Stat.pzxid", 60)


def test_errors_show_no_content() -> None:
    secret = b"hunter2hunter2"
    with pytest.raises(WireError) as e:
        Id.decode(struct.pack(">i", 6) + b"digest" + struct.pack(">i", 99) + secret)
    assert "hunter2" not in str(e.value)


@pytest.mark.parametrize(
    "value",
    [
        ACL(2**31, Id("", "")),
        ACL(0, Id(1, "")),  # type: ignore[arg-type]
        ACL(None, Id("", "")),  # type: ignore[arg-type]
        PathRequest(b"/a"),  # type: ignore[arg-type]
        CreateRequest("/", "text", None, 0),  # type: ignore[arg-type]
    ],
)
def test_values_that_do_not_fit(value: Record) -> None:
    with pytest.raises(WireError):
        value.encode()


def test_text_is_read_as_java_reads_it() -> None:
    assert PathRequest.decode(b"\x00\x00\x00\x03/\xff\xfe").path == "/��"
    assert PathRequest("/\ud800").encode() == b"\x00\x00\x00\x02/?"


def test_any_nonzero_boolean_is_true() -> None:
    assert decode_nested(FilteredListRequest, b"\x00\x00\x00\x01/\x07\x00", 0, 7) == (
        FilteredListRequest("/", True, 0, b""),
        7,
    )


def test_nested_a_rest_takes_nothing() -> None:
    raw = FilteredListRequest("/", True, 1, b"more").encode()
    value, pos = decode_nested(FilteredListRequest, raw, 0, len(raw))
    assert (value.tail, raw[pos:]) == (b"", b"more")


def test_sizes() -> None:
    assert len(Stat(*range(11)).encode()) == 68
    assert len(StatPersisted(*range(9)).encode()) == 60
    assert sum(least_size(f.type) for f in fields_of(ACL)) == 12


def test_decode_takes_any_bytes_like() -> None:
    raw = Id("ip", "127.0.0.1").encode()
    assert Id.decode(bytearray(raw)) == Id.decode(memoryview(raw)) == Id.decode(raw)


def test_layouts_that_cannot_be_read_are_refused() -> None:
    @record
    class RestFirst(Record):
        a: Rest
        b: Int

    with pytest.raises(TypeError, match="before others"):
        RestFirst.decode(b"")

    @record
    class Nothing(Record):
        pass

    @record
    class ManyNothings(Record):
        a: Vector[Nothing]

    globals()["Nothing"] = Nothing
    with pytest.raises(TypeError, match="without size"):
        ManyNothings.decode(b"")
