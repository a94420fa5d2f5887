"""zoo.cfg as Java's server reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from zktrace_server.net.config import Config, ConfigError, from_values, load, parse
from zktrace_server.net.extras import AdminSettings, ExtrasError, MetricsSettings


def test_a_properties_file() -> None:
    text = "# a\n! b\n\na=1\nb: 2\n c  3 \nd.e = x=y \nlong=one\\\n   two\nempty=\nbare\n"
    assert parse(text) == {
        "a": "1",
        "b": "2",
        "c": "3",
        "d.e": "x=y",
        "long": "onetwo",
        "empty": "",
        "bare": "",
    }


PROMETHEUS = "org.apache.zookeeper.metrics.prometheus.PrometheusMetricsProvider"


def given(**more: str) -> tuple[Config, list[str]]:
    warnings: list[str] = []
    values = {"dataDir": "/d", "clientPort": "2181", **more}
    return from_values(values, warnings.append), warnings


def test_defaults_are_javas() -> None:
    config, warnings = given()
    settings = config.settings
    assert warnings == []
    assert (settings.tick_ms, settings.min_session_timeout_ms) == (3000, 6000)
    assert settings.max_session_timeout_ms == 60_000
    assert (config.max_client_connections, config.outstanding_limit) == (60, 1000)
    assert (config.snap_count, config.preallocate) == (100_000, 64 << 20)
    assert config.words == {"srvr"}
    assert config.data_log_dir == config.data_dir == Path("/d")
    assert settings.max_buffer == 1_048_575


def test_the_sample_that_java_comes_with(tmp_path: Path) -> None:
    path = tmp_path / "zoo.cfg"
    path.write_text("tickTime=2000\ninitLimit=10\nsyncLimit=5\ndataDir=/tmp/x\nclientPort=2181\n")
    warnings: list[str] = []
    assert load(path, warnings.append).settings.max_session_timeout_ms == 40_000
    assert warnings == []


def test_ports_beside_the_clients() -> None:
    config, _ = given()
    assert config.admin == AdminSettings("", 8080, "/commands", asked=False)
    assert config.metrics is None
    config, _ = given(**{"admin.enableServer": "false"})
    assert config.admin is None
    config, warnings = given(
        **{
            "admin.serverPort": "81",
            "admin.serverAddress": "::1",
            "admin.commandURL": "/c",
            "metricsProvider.className": PROMETHEUS,
            "metricsProvider.httpPort": "82",
        }
    )
    assert config.admin == AdminSettings("::1", 81, "/c", asked=True)
    assert config.metrics == MetricsSettings("", 82)
    _, more = given(**{"metricsProvider.className": "x.Y"})
    assert (warnings, len(more)) == ([], 1)
    for key in ("admin.forceHttps", "admin.portUnification", "admin.needClientAuth"):
        with pytest.raises(ExtrasError, match=key):
            given(**{key: "true"})


@pytest.mark.parametrize("text", ["0x10", "1_000", "1.5", "", "99999999999999", "١", "- 1"])
def test_what_java_takes_for_no_number(text: str) -> None:
    with pytest.raises(ConfigError, match=r"snapCount=.* is no number"):
        given(snapCount=text)


def test_secrets_are_not_shown() -> None:
    secrets = {
        "ssl.keyStore.password": "s1",
        "DigestAuthenticationProvider.superDigest": "super:s2",
        "SASLAuthenticationProvider.superPassword": "s3",
    }
    text = "".join(f"{key}={value}\n" for key, value in secrets.items())
    values = {"dataDir": "/d", "clientPort": "1", **secrets}
    config = from_values(values, lambda _: None, f"dataDir=/d\n{text}")
    shown = config.text + str(config.given)
    assert "s1" not in shown
    assert "s2" not in shown
    assert "s3" not in shown
    assert config.given["dataDir"] == "/d"
    assert config.text.startswith("dataDir=/d\nssl.keyStore.password=***\n")


def test_what_is_not_served_is_said() -> None:
    _, warnings = given(**{"observerMasterPort": "7", "server.1": "a:1:2", "what": "ever"})
    assert warnings == [
        "server.1 is the only server: it stands alone",
        "observerMasterPort is not supported yet, and has no effect",
        "unknown key what, ignored",
    ]


def test_without_a_port() -> None:
    with pytest.raises(ConfigError, match="neither clientPort nor secureClientPort is set"):
        from_values({"dataDir": "/d"}, pytest.fail)


# --- ensembles --------------------------------------------------------------------------------


def _member(tmp_path: Path, **more: str) -> tuple[Config, list[str]]:
    (tmp_path / "myid").write_text(more.pop("myid", "2\n"))
    servers = {f"server.{sid}": f"h{sid}:1:2" for sid in (1, 2)} | {"server.3": "h3:1:2:observer"}
    return given(
        **{"dataDir": str(tmp_path), "initLimit": "10", "syncLimit": "5", **servers, **more}
    )


def test_a_place_in_an_ensemble(tmp_path: Path) -> None:
    config, warnings = _member(tmp_path, tickTime="100", connectToLearnerMasterLimit="3")
    quorum = config.quorum
    assert quorum is not None
    assert (quorum.sid, quorum.ensemble.voters, warnings) == (2, [1, 2], [])
    limits = quorum.limits
    assert (limits.init_ms, limits.sync_ms, limits.connect_ms) == (1000, 500, 300)
    assert config.settings.tick_ms == 100


def test_what_an_ensemble_cannot_do_yet_is_said(tmp_path: Path) -> None:
    _, warnings = _member(tmp_path, portUnification="true", peerType="observer")
    assert warnings == [
        "portUnification is not supported yet, and has no effect in an ensemble",
        "peerType=observer is not what server.2 says: it is participant",
    ]


def test_one_server_may_be_an_ensemble(tmp_path: Path) -> None:
    (tmp_path / "myid").write_text("1")
    keys = {"dataDir": str(tmp_path), "initLimit": "10", "syncLimit": "5"}
    config, warnings = given(**keys, standaloneEnabled="false", **{"server.1": "h:1:2"})
    assert config.quorum is not None
    assert config.quorum.ensemble.voters == [1]
    assert not config.settings.standalone_enabled
    assert warnings == []


def _dynamic(tmp_path: Path, name: str, text: str, **more: str) -> Config:
    """The configuration of server 2, whose servers are in a file of that name."""
    (tmp_path / "myid").write_text("2")
    (tmp_path / name).write_text(text)
    keys = {"dataDir": str(tmp_path), "initLimit": "10", "syncLimit": "5", "tickTime": "100"}
    keys |= {"dynamicConfigFile": str(tmp_path / name), "reconfigEnabled": "true", **more}
    path = tmp_path / "zoo.cfg"
    path.write_text("".join(f"{key}={value}\n" for key, value in keys.items()))
    return load(path, pytest.fail)


_TWO = "server.1=h:1:2:participant;0.0.0.0:7\nserver.2=h:3:4:participant;127.0.0.1:8"


def test_servers_in_a_file_of_their_own(tmp_path: Path) -> None:
    config = _dynamic(tmp_path, "zoo.cfg.dynamic.10000000a", _TWO)
    assert config.quorum is not None
    assert config.quorum.ensemble.text().decode() == f"{_TWO}\nversion=10000000a"
    assert config.quorum.seen is None
    assert (config.client_port, config.client_address) == (8, "127.0.0.1")
    # As before the first configuration was committed: no version, so 0.
    assert _version(_dynamic(tmp_path, "zoo.cfg.dynamic", _TWO)) == 0
    (tmp_path / "zoo.cfg.dynamic.next").write_text(f"{_TWO}\nversion=20000000b")
    seen = _dynamic(tmp_path, "zoo.cfg.dynamic.10000000a", _TWO).quorum
    assert seen is not None
    assert seen.seen is not None
    assert seen.seen.version == 0x20000000B


def _version(config: Config) -> int:
    assert config.quorum is not None
    return config.quorum.ensemble.version


@pytest.mark.parametrize(
    ("text", "more", "reason"),
    [
        (f"{_TWO}\nversion=5", {}, "a version belongs into its name"),
        (f"{_TWO}\nclientPort=5", {}, "clientPort is no key of a configuration"),
        (_TWO.splitlines()[0] + "\nserver.3=h:5:6", {}, "there is no server.2"),
        (_TWO, {"clientPort": "9"}, "clientPort=9 is not what the server's own line says"),
    ],
)
def test_files_of_servers_that_are_refused(
    tmp_path: Path, text: str, more: dict[str, str], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        _dynamic(tmp_path, "zoo.cfg.dynamic.1", text, **more)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"myid": "7"}, "there is no server.7"),
        ({"myid": "x"}, "is no server's number"),
        ({"initLimit": "0"}, "initLimit is not set"),
        ({"sslQuorum": "true"}, "ssl.quorum.keyStore.location is not set, and sslQuorum needs"),
        ({"quorum.auth.enableSasl": "true"}, "enableSasl=true wants the property java.security"),
        ({"quorum.auth.learnerRequireSasl": "true"}, "wants quorum.auth.enableSasl=true"),
        ({"quorum.auth.enableSasl": "true", "fips-mode": "true"}, "which fips-mode=true forbids"),
        ({"electionAlg": "2"}, "electionAlg=2 is not supported"),
        ({"dynamicConfigFile": "/x/y"}, "cannot read /x/y: No such file"),
        ({"server.1": "h1:1"}, "server.1=h1:1: it is not host:port:port"),
    ],
)
def test_ensembles_that_are_refused(tmp_path: Path, more: dict[str, str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        _member(tmp_path, **more)


def test_a_file_with_the_servers_in_another(tmp_path: Path) -> None:
    """Else it would stand alone without having been told to."""
    with pytest.raises(ConfigError, match="cannot read /x/y: No such file"):
        given(dynamicConfigFile="/x/y")
