"""Apache Kafka's own broker on free ports of loopback: one node that is its own controller (KRaft),
with a password for clients. Maven fetches it, once (`kafkad.pom.xml`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from tests.fleet.broker import Broker
from tests.fleet.natsd import PASSWORD, USER
from tests.support.javazk import free_ports

_REQUIRED = os.environ.get("ZKTRACE_REQUIRE_KAFKA", "") not in ("", "0")
_POM = Path(__file__).with_name("kafkad.pom.xml")
#: A broker of a few messages: it is to start quickly.
_JVM = ("-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_SETTINGS = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=CLIENTS://127.0.0.1:{clients},CONTROLLER://127.0.0.1:{controller}
listener.security.protocol.map=CLIENTS:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=CLIENTS
sasl.mechanism.inter.broker.protocol=PLAIN
sasl.enabled.mechanisms=PLAIN
listener.name.clients.plain.sasl.jaas.config={login}
log.dirs={directory}
offsets.topic.replication.factor=1
"""
_LOGIN = (
    "org.apache.kafka.common.security.plain.PlainLoginModule required "
    f'username="{USER}" password="{PASSWORD}" user_{USER}="{PASSWORD}";'
)


@cache
def classpath() -> str:
    """Skips where there is none, or fails if it was asked for."""
    reason = "there is no mvn or no java (Debian: maven, default-jre-headless)"
    if shutil.which("mvn") and shutil.which("java"):
        file = Path(os.environ.get("TMPDIR", "/tmp")) / f"zktrace-kafka-{os.getpid()}"
        goal = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:build-classpath"
        command = ["mvn", "-q", "-B", "-f", str(_POM), goal, f"-Dmdep.outputFile={file}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode == 0:
            found = file.read_text()
            file.unlink()
            return found
        reason = f"Maven does not get it: {done.stdout[-500:]}"
    if _REQUIRED:
        pytest.fail(f"ZKTRACE_REQUIRE_KAFKA is set, but {reason}")
    pytest.skip(reason)


class Kafka(Broker):
    patience_s = 120.0

    def __init__(self, directory: Path) -> None:
        port, controller = free_ports(2)
        super().__init__(port)
        directory.mkdir()
        self._settings = directory / "server.properties"
        self._settings.write_text(
            _SETTINGS.format(
                clients=self.port, controller=controller, login=_LOGIN, directory=directory / "log"
            )
        )
        self.config = directory / "client.properties"
        self.config.write_text(
            "# as Kafka's own commands take them\n"
            "security.protocol=SASL_PLAINTEXT\nsasl.mechanisms=PLAIN\n"
            f"sasl.username={USER}\nsasl.password={PASSWORD}\n"
        )
        self._java("kafka.tools.StorageTool", "format", "-t", "zktrace-testsAAAAAAAAA", "-c").wait()

    def _java(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = ["java", *_JVM, "-cp", classpath(), *arguments, str(self._settings)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    @property
    def environment(self) -> dict[str, str]:
        return {"ZKTRACE_KAFKA": self.shown, "ZKTRACE_KAFKA_CONFIG": str(self.config)}

    def run(self) -> subprocess.Popen[bytes]:
        return self._java("kafka.Kafka")
