"""Curator's recipes (locks, latches, caches, queues ...) at this server and at Java's.

    python -m tests.server.curator_recipes

Maven fetches Curator and ZooKeeper's client into a temporary directory, javac compiles
``curator/Recipes.java``, and both servers must have it print the same. Needs mvn, a JDK and Maven's
central repository, so it is not in CI.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.server.ourzk import ours
from tests.support.javazk import standalone

CURATOR: Final = "5.7.1"
_SOURCE: Final = Path(__file__).with_name("curator") / "Recipes.java"
_POM: Final = f"""\
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>zktrace</groupId><artifactId>recipes</artifactId><version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.curator</groupId><artifactId>curator-recipes</artifactId>
      <version>{CURATOR}</version>
    </dependency>
  </dependencies>
</project>
"""


def fetch(directory: Path) -> str:
    """The classpath of the compiled recipes."""
    (directory / "pom.xml").write_text(_POM)
    subprocess.run(
        ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=lib"],
        cwd=directory,
        check=True,
    )
    jars = os.pathsep.join(map(str, sorted((directory / "lib").glob("*.jar"))))
    subprocess.run(["javac", "-cp", jars, "-d", str(directory), str(_SOURCE)], check=True)
    return os.pathsep.join((jars, str(directory)))


def recipes(classpath: str, hosts: str) -> str:
    """What they print."""
    done = subprocess.run(
        ["java", "-cp", classpath, "Recipes", hosts], capture_output=True, text=True, timeout=600
    )
    return done.stdout + (done.stderr[-3000:] if done.returncode else "")


def main() -> int:
    """Prints what the recipes did; 1 where the two servers differ."""
    with tempfile.TemporaryDirectory() as name:
        classpath = fetch(Path(name))
        with ours(Path(name) / "ours") as our, standalone(Path(name) / "java") as java:
            printed, expected = (recipes(classpath, server.hosts) for server in (our, java))
    print(printed, end="")
    if printed != expected:
        print(f"At Java's server:\n{expected}", end="")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
