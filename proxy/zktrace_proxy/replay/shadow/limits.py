"""What a shadow remembers at most, since the traffic that it follows has no end.

All of what is under way is held beside (:data:`zktrace_proxy.replay.run.UNDER_WAY`,
:data:`zktrace_proxy.replay.shadow.feed.WAITING_MAX`), and sessions and connections that are open.
What is given up for room is counted, and told (``forgotten`` of ``/api/shadow``).
"""

from __future__ import annotations

from typing import Final

#: Sessions that have ended, the latest: a client that comes back to one is refused by both.
#: Some 1 KiB each. Of what was planned half as many as of what was done, which comes later.
ENDED_MAX: Final = 4_096
#: Paths, the latest that were named: a node that is named again after that is looked for at the
#: shadow, and made where it is not there. Some 250 bytes each.
PATHS_MAX: Final = 65_536
#: Nodes that were made without their data, since nothing had shown it.
UNKNOWN_MAX: Final = 65_536
#: Pairs of zxids, the latest: those of an older write are allowed to differ. Some 250 bytes each.
ZXIDS_MAX: Final = 65_536
#: Nodes with another sequence number, that were not deleted: others are told as different, so that
#: there are more of them. Some 700 bytes each.
NAMES_MAX: Final = 65_536
#: Names of nodes that were deleted: a watch event may still tell of them.
DELETED_MAX: Final = 4_096
#: Nodes with other versions: of those that were forgotten they are learned anew. 250 bytes each.
OFFSETS_MAX: Final = 65_536
#: Sessions that were left out: one that comes again after that begins anew at the shadow.
LEFT_OUT_MAX: Final = 16_384
