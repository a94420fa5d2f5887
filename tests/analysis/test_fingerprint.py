"""Shapes of paths: rules by example, and the same from both engines."""

from __future__ import annotations

import pytest

from zktrace.analysis.fingerprint import fingerprint

SHAPES = {
    "/": "/",
    "": "",
    "/zookeeper/quota": "/zookeeper/quota",
    # Curator, kazoo, Kafka, HBase, Solr
    "/locks/_c_2f1c0e1e-0f7b-4f3a-9a53-1f5d5c8e4a11-lock-0000000012": "/locks/_c_<uuid>-lock-<seq>",
    "/lock/0a1b2c3d4e5f60718293a4b5c6d7e8f9__lock__0000000012": "/lock/<hex>__lock__<seq>",
    "/brokers/topics/orders/partitions/17/state": "/brokers/topics/orders/partitions/<n>/state",
    "/hbase/rs/node1.example.com,16020,1700000000000": "/hbase/rs/node<n>.example.com,<n>,<n>",
    "/live_nodes/10.0.0.1:8983_solr": "/live_nodes/<ip>:<port>_solr",
    "/hosts/db-3:2181": "/hosts/db-<n>:<port>",
    "/queue/qn-0000000001": "/queue/qn-<seq>",
    "/queue/qn--2147483648": "/queue/qn--<seq>",
    "/queue/item0000000001": "/queue/item<seq>",
    "/queue/0000000001/x": "/queue/<seq>/x",
    "/queue/0000000001x": "/queue/0000000001x",
    "/s/0x100001e10f50000": "/s/<hex>",
    "/commit/deadbeef": "/commit/deadbeef",
    "/commit/deadbeef1": "/commit/<hex>",
    "/v2beta/cafe1": "/v2beta/cafe<n>",
    "/1.2.3.4.5": "/<ip>.<n>",
    "/1.2.3.4567": "/<n>.<n>.<n>.<n>",
    "/ünï-12/日本7": "/ünï-<n>/日本<n>",
    "/2f1c0e1e-0f7b-4f3a-9a53-1f5d5c8e4a11x": "/<hex>-0f7b-4f3a-9a<n>-1f5d5c8e4a11x",
}


@pytest.mark.parametrize("path", SHAPES)
def test_shapes(path: str) -> None:
    assert fingerprint(path) == SHAPES[path]


def test_a_shape_is_its_own_shape() -> None:
    for shape in SHAPES.values():
        again = fingerprint(shape)
        assert fingerprint(again) == again
