"""What ``zktrace verify`` holds to be true, and who says so: all checks by name, in the order in
which they are shown.

How each is looked for in Python is in the module of its kind (:mod:`sessions`, :mod:`orders`,
:mod:`quorums`, :mod:`epochs`, :mod:`alarms`), natively in ``analysis/verify/`` of the crate. Knows
neither, so that what is shown of a check needs none of what it takes to make it.
"""

from __future__ import annotations

from inspect import cleandoc
from typing import Final

from zktrace.analysis.verify.model import ALARM, ENSEMBLE, SESSION, Check


def _check(name: str, group: str, guarantee: str, *sources: str) -> Check:
    return Check(name, group, cleandoc(guarantee), sources)


_ALL: Final = (
    _check(
        "session-zxid",
        SESSION,
        """The zxids in the replies on a connection never go back.

        A reply's header has the last zxid that its server had processed, which only grows.
        """,
        "Hunt et al., ZooKeeper (USENIX ATC 2010), 2.3: FIFO client order, linearizable writes",
        "FinalRequestProcessor.processRequest: lastZxid of the ReplyHeader",
        "CommitProcessor.run: one write at a time, and no read beside it",
    ),
    _check(
        "session-order",
        SESSION,
        """Replies on a connection come in the order of the requests.

        But for auth and sasl, which are answered at receipt, and refusals. A reply is out of
        order where its request was sent later, and has a higher xid, than that of a reply behind
        it; looked for where the client counts its xids up, as the usual clients do.
        """,
        "Hunt et al. (2010), 2.3: all requests from a given client are executed in the order sent",
        "CommitProcessor.run: pendingRequests holds a session's requests in order",
    ),
    _check(
        "session-reads",
        SESSION,
        """A read never shows a node as it was before the session's own last write to it.

        The Stat in a reply has the zxid of the node's last change (mzxid): after a session's own
        create, setData or delete of the node it is not older than that write.
        """,
        "Hunt et al. (2010), 2.3: FIFO client order; 4.4: a client's reads see its own writes",
        "CommitProcessor.run: reads of a session wait behind its write",
    ),
    _check(
        "session-events",
        SESSION,
        """A watch event comes before any reply that shows the change.

        Events that carry the zxid of their write (3.9) are older than every reply behind them and
        newer than every one before. Whatever the release: where a read set a data watch on a
        node, no later reply shows a newer mzxid of the same node without an event in between.
        """,
        "Hunt et al. (2010), 2.3 and 4.4: a client sees the watch event before the new state",
        "DataTree.processTxn: watches are triggered before lastProcessedZxid is raised",
        "NIOServerCnxn.process (3.9): the event's header has the zxid of its write",
    ),
    _check(
        "session-move",
        SESSION,
        """A server that takes a session has processed all that the client says it has seen.

        No reply on a connection has a lower zxid than its ConnectRequest's last zxid seen.
        """,
        "Hunt et al. (2010), 4.4: a server does not take a session of a client that has seen more",
        "ZooKeeperServer.processConnectRequest: CLIENT_ZXID_AHEAD",
    ),
    _check(
        "leader-order",
        ENSEMBLE,
        """Zxids of PROPOSALs, and of INFORMs, strictly increase per leader and learner.

        Nor is one left out that another packet of the same leader shows to exist.
        """,
        "Junqueira, Reed, Serafini, Zab (DSN 2011), V: the leader proposes in the order of zxids",
        "Learner.enforceContinuousProposal, Follower.processPacket: lastQueued + 1",
    ),
    _check(
        "commit-order",
        ENSEMBLE,
        """COMMITs come in the order of the PROPOSALs, each behind its own, none left out.""",
        "Zab (DSN 2011), III: total order; V: commits in the order of proposals",
        "Leader.tryToCommit, FollowerZooKeeperServer.commit: the oldest of pendingTxns or exit",
    ),
    _check(
        "same-txn",
        ENSEMBLE,
        """Every learner is told the same transaction at the same zxid.

        Session, cxid, type, path, error, size and, by a keyed hash, all bytes of the txn are
        compared, over all learners of an ensemble and over changes of the leader.
        """,
        "Zab (DSN 2011), III: agreement; a zxid names one transaction",
        "Leader.propose: one QuorumPacket for all followers; Leader.inform: the same bytes",
    ),
    _check(
        "digest",
        ENSEMBLE,
        """The digest of the tree behind a transaction is the same for all learners.

        And a createSession, which changes no node, leaves it as the transaction before had it.
        """,
        "DataTree.compareDigest, LogEntry's TxnDigest (ZOOKEEPER-3114, since 3.6)",
        "PrepRequestProcessor.pRequestHelper: a txn that changes nothing has the tree's digest",
    ),
    _check(
        "commit-quorum",
        ENSEMBLE,
        """A transaction is committed only when a quorum, the leader counted, has acknowledged
        it.
        """,
        "Zab (DSN 2011), V.B phase 3: COMMIT upon ACKs of a quorum",
        "Leader.processAck, Leader.tryToCommit: hasAllQuorums",
    ),
    _check(
        "uptodate-quorum",
        ENSEMBLE,
        """A leader tells nobody UPTODATE before a quorum, the leader counted, has acknowledged
        its NEWLEADER.
        """,
        "Zab (DSN 2011), V.A phase 2: the leader is established when a quorum has acknowledged it",
        "Leader.waitForNewLeaderAck, LearnerHandler.run: UPTODATE after waitForStartup",
    ),
    _check(
        "one-leader",
        ENSEMBLE,
        """At most one server leads in an epoch: has sent NEWLEADER, or broadcasts to followers.
        """,
        "Zab (DSN 2011), V.A phase 1: at most one leader is established per epoch",
        "Leader.waitForEpochAck: a follower acknowledges no epoch that it has accepted before",
    ),
    _check(
        "epoch-order",
        ENSEMBLE,
        """Epochs only grow.

        A learner acknowledges no epoch below the one that it had accepted; what it accepted on
        one connection it knows on the next; NEWLEADER has the epoch of LEADERINFO, and what is
        broadcast has the leader's epoch.
        """,
        "Zab (DSN 2011), V.A: a follower accepts no epoch below its last; a new one is above all",
        "Learner.registerWithLeader: 'less than accepted epoch'; Leader.getEpochToPropose",
    ),
    _check(
        "committed-kept",
        ENSEMBLE,
        """Nothing that was committed is lost when the leader changes.

        What a leader brings its learners up to (the zxid of DIFF, TRUNC or SNAP, and what it
        proposes before NEWLEADER) is no older than any COMMIT of an earlier epoch.
        """,
        "Zab (DSN 2011), V.A phase 2: the new leader's history has all that was committed",
        "LearnerHandler.syncFollower: DIFF, TRUNC and SNAP tell what the leader has",
    ),
    _check(
        "sync-order",
        ENSEMBLE,
        """A learner is told the epoch, brought up to date, told NEWLEADER, and UPTODATE when it
        has acknowledged that; each once.
        """,
        "Zab (DSN 2011), V.A phases 1 and 2: discovery, then synchronization, then broadcast",
        "LearnerHandler.run: LEADERINFO, DIFF, TRUNC or SNAP, NEWLEADER, its ACK, UPTODATE",
    ),
    _check(
        "bare-check",
        ALARM,
        """A check outside a multi: followers of ZooKeeper 3.8 go down by it, and its leader
        cannot load its log again.
        """,
        "PrepRequestProcessor.pRequest (3.8): a check outside a multi becomes a txn of type 13",
        "SerializeUtils.deserializeTxn: 'Unsupported Txn with type=13'",
    ),
    _check(
        "no-quorum",
        ALARM,
        """Writes are proposed when too few followers are left to make a quorum.""",
        "Leader.lead: shuts down when fewer than a quorum are synced, half a tick later or more",
    ),
    _check(
        "flapping-leader",
        ALARM,
        """The ensemble changes its leader, or the epoch, again and again.""",
        "QuorumPeer.run: LOOKING, then LEADING in a new epoch",
    ),
)

CHECKS: Final = {check.name: check for check in _ALL}
