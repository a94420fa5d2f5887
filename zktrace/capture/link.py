"""Link layers: finds the network packet in a captured frame.

Works on (data, wire): the bytes that were captured, and how many there were on the wire; `wire` is
never below `len(data)`. Must not know: TCP, files.
"""

from __future__ import annotations

ETHERNET = 1
IPV4 = 0x0800
IPV6 = 0x86DD

_VLAN_TAGS = (0x8100, 0x88A8, 0x9100)
# Two tags are usual (802.1ad), four have been seen in carrier networks; more is noise.
MAX_VLAN_TAGS = 4

# AF_INET is 2 everywhere; AF_INET6 is 10 on Linux, 24, 28 and 30 on the BSDs and macOS.
_FAMILY_IPV6 = (10, 24, 28, 30)


class TooShort(Exception):
    """The headers do not fit in what was captured."""


class Malformed(Exception):
    """The headers contradict themselves."""


class NotTcp(Exception):
    """A packet that holds no TCP segment, or one in wrappings not read here."""


class UnknownLinkType(Exception):
    """A link type this module does not read."""


def network_packet(linktype: int, data: bytes, wire: int) -> tuple[int, bytes, int]:
    """Ethertype (IPV4 or IPV6), data and wire length of the network packet in a frame."""
    if linktype == ETHERNET:
        return ethernet(data, wire)
    if linktype == 113:  # LINKTYPE_LINUX_SLL
        return ethertype(_u16(data, 14), data[16:], wire - 16)
    if linktype == 276:  # LINKTYPE_LINUX_SLL2
        if len(data) < 20:
            raise TooShort
        return ethertype(_u16(data, 0), data[20:], wire - 20)
    if linktype in (0, 108):  # LINKTYPE_NULL, LINKTYPE_LOOP
        if len(data) < 4:
            raise TooShort
        family = int.from_bytes(data[:4], "big")
        if linktype == 0 and family > 0xFFFF:
            # Byte order of the capturing host. Families are small, so this tells the two apart.
            family = int.from_bytes(data[:4], "little")
        if family == 2:
            return IPV4, data[4:], wire - 4
        if family in _FAMILY_IPV6:
            return IPV6, data[4:], wire - 4
        raise NotTcp
    if linktype in (12, 14, 101):  # raw IP: DLT_RAW here and there, LINKTYPE_RAW
        if not data:
            raise TooShort
        version = data[0] >> 4
        if version == 4:
            return IPV4, data, wire
        if version == 6:
            return IPV6, data, wire
        raise Malformed
    if linktype == 228:  # LINKTYPE_IPV4
        return IPV4, data, wire
    if linktype == 229:  # LINKTYPE_IPV6
        return IPV6, data, wire
    raise UnknownLinkType


def ethernet(data: bytes, wire: int) -> tuple[int, bytes, int]:
    """The network packet of an Ethernet frame."""
    return ethertype(_u16(data, 12), data[14:], wire - 14)


def ethertype(protocol: int, data: bytes, wire: int) -> tuple[int, bytes, int]:
    """The network packet behind an ethertype and any VLAN tags that follow it."""
    tags = 0
    while protocol in _VLAN_TAGS:
        if tags == MAX_VLAN_TAGS:
            raise NotTcp
        tags += 1
        protocol = _u16(data, 2)
        data = data[4:]
        wire -= 4
    if protocol not in (IPV4, IPV6):
        raise NotTcp
    return protocol, data, wire


def _u16(data: bytes, pos: int) -> int:
    if len(data) < pos + 2:
        raise TooShort
    return data[pos] << 8 | data[pos + 1]
