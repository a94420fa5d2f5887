"""What all tests share: the choice of engine, and plain words about an engine that is not there.

A test that takes the `engine` fixture runs twice, once per engine. Where the native engine was
not built its half is skipped and the summary says so; with ZKTRACE_REQUIRE_NATIVE=1 (CI) the run
is refused instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.support import javazk
from zktrace.engine.base import ENGINE_VARIABLE, EngineError, choose

# A shared machine's speed is no property of the code. CI tries the same examples each time; run
# with HYPOTHESIS_PROFILE=explore for other and more ones.
_QUIET = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("ci", deadline=None, derandomize=True, suppress_health_check=_QUIET)
settings.register_profile("dev", deadline=None, suppress_health_check=_QUIET)
settings.register_profile(
    "explore", deadline=None, max_examples=2000, print_blob=True, suppress_health_check=_QUIET
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


def native_missing() -> str | None:
    """Why the native engine cannot be used, None if it can."""
    try:
        choose("native")
    except EngineError as error:
        return str(error)
    return None


NATIVE_MISSING = native_missing()
_REQUIRED = os.environ.get("ZKTRACE_REQUIRE_NATIVE", "") not in ("", "0")


def pytest_configure(config: pytest.Config) -> None:
    if NATIVE_MISSING is not None and _REQUIRED:
        raise pytest.UsageError(
            f"ZKTRACE_REQUIRE_NATIVE is set and there is no native engine: {NATIVE_MISSING}"
        )


def pytest_report_header(config: pytest.Config) -> str:
    if NATIVE_MISSING is None:
        return "engines: python, native"
    return f"engines: python only; native is NOT BUILT ({NATIVE_MISSING})"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if NATIVE_MISSING is not None:
        terminalreporter.section("native engine", yellow=True)
        terminalreporter.line("The native engine was not built: its half of the tests DID NOT RUN.")


needs_native = pytest.mark.skipif(
    NATIVE_MISSING is not None, reason=f"native engine not built: {NATIVE_MISSING}"
)


@pytest.fixture(params=[pytest.param("python"), pytest.param("native", marks=needs_native)])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an engine, each in turn; it is also the one that is taken by default."""
    name: str = request.param
    monkeypatch.setenv(ENGINE_VARIABLE, name)
    return name


@pytest.fixture(scope="module")
def java_zookeeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[javazk.JavaServer]:
    """A Java ZooKeeper that serves on a port of 127.0.0.1, one for each module."""
    with javazk.standalone(tmp_path_factory.mktemp("zookeeper")) as server:
        yield server


@pytest.fixture(scope="module")
def java_ensemble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[javazk.Servers]:
    """An ensemble of three Java servers, one for each module."""
    with javazk.ensemble(tmp_path_factory.mktemp("ensemble")) as servers:
        yield servers
