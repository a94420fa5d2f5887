"""Configuration files of an ensemble: what is written can be read again, by Java as well
(`tests/server/quorum/test_reconfig.py`), and what people wrote stays.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from zktrace_server.core.quorum.ensemble import MembershipError, parse_text
from zktrace_server.storage.configs import ConfigFiles, read_dynamic, read_next
from zktrace_server.storage.directory import StorageError

_STATIC = """# ours
tickTime=500
server.1=h:1:2
group.1=1
weight.1=1
  peerType = participant
clientPort=2181
clientPortAddress=::1
clientPortListenBacklog=7
long=one\\
  server.2=two
! the end"""
_ONE = parse_text("server.1=h:1:2;2181\nserver.2=h:3:4:observer;;5\nversion=100000000")


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_the_first_configuration(tmp_path: Path) -> None:
    config = tmp_path / "zoo.cfg"
    config.write_text(_STATIC)
    files = ConfigFiles(config, 1)
    files.save_seen(_ONE)
    assert _names(tmp_path) == ["zoo.cfg", "zoo.cfg.dynamic.next"]
    assert config.read_text() == _STATIC
    assert read_next(config) == _ONE

    files.save_committed(_ONE, settled=True)
    dynamic = tmp_path / "zoo.cfg.dynamic.100000000"
    assert _names(tmp_path) == ["zoo.cfg", "zoo.cfg.bak", dynamic.name]
    assert (tmp_path / "zoo.cfg.bak").read_text() == _STATIC
    assert config.read_text() == (
        "# ours\ntickTime=500\nclientPortListenBacklog=7\nlong=one\\\n  server.2=two\n! the end\n"
        f"dynamicConfigFile={dynamic}\n"
    )
    assert dynamic.read_text() == (
        "server.1=h:1:2:participant;0.0.0.0:2181\nserver.2=h:3:4:observer;;0.0.0.0:5"
    )
    assert read_dynamic(dynamic) == _ONE
    assert read_next(config) is None


def test_the_next_one(tmp_path: Path) -> None:
    """The file of before stays; what was proposed since is not forgotten."""
    config = tmp_path / "zoo.cfg"
    config.write_text("tickTime=500\nclientPort=2181\ndynamicConfigFile=/elsewhere\n")
    files = ConfigFiles(config, 3)
    files.save_seen(_ONE.at(0x300000005))
    files.save_committed(_ONE.at(0x200000001), settled=False)
    dynamic = tmp_path / "zoo.cfg.dynamic.200000001"
    assert _names(tmp_path) == ["zoo.cfg", dynamic.name, "zoo.cfg.dynamic.next"]
    # It is not in the configuration: where it listens stays with it.
    assert config.read_text() == f"tickTime=500\nclientPort=2181\ndynamicConfigFile={dynamic}\n"
    seen = read_next(config)
    assert seen is not None
    assert seen.version == 0x300000005


def test_versions_in_names(tmp_path: Path) -> None:
    for name, version in (("zoo.cfg.dynamic", 0), ("zoo.dynamic.1f", 0x1F), ("feed", 0)):
        (tmp_path / name).write_text("server.1=h:1:2")
        assert read_dynamic(tmp_path / name).version == version


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("version=x", "version=x is no number"),
        ("server.1", "is no key=value"),
        ("server.1=h:1:2\nversion=4", "belongs into its name"),
        ("server.1=h:1:2\ntickTime=3", "tickTime is no key of a configuration"),
        ("", "there are observers only"),
    ],
)
def test_files_that_are_none(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "d").write_text(text)
    with pytest.raises(MembershipError, match=reason):
        read_dynamic(tmp_path / "d")


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot read"):
        ConfigFiles(tmp_path / "zoo.cfg", 1).save_committed(_ONE, settled=True)
