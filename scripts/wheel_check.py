"""Builds sdist and wheels, uses each in a fresh environment, with and without Rust.

What users do: `pip install` of a wheel, and of an sdist on a machine with and without a Rust
toolchain. Dependencies are resolved from the package's own metadata here, not from the lock, so
that a missing one shows.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CAPTURE = ROOT / "pcaps" / "02_basic_ops.pcap"
EXCHANGES = 51  # in that capture
TOP_LEVEL = {"zktrace", "zktrace_server", "zktrace_proxy"}
# Run in the fresh environment, from an empty folder: what is found is what was installed.
PROBE = """
import sys, zktrace, zktrace_server, zktrace_proxy
from pathlib import Path
assert Path(sys.prefix) in Path(zktrace.__file__).parents, zktrace.__file__
from zktrace.engine.base import choose
assert choose().name == sys.argv[1], f"{choose()} where {sys.argv[1]} was expected"
"""


def run(*command: str | Path, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> str:
    done = subprocess.run(
        [str(part) for part in command], env=env, cwd=cwd, capture_output=True, text=True
    )
    if done.returncode != 0:
        sys.stderr.write(done.stdout + done.stderr)
        raise SystemExit(f"failed: {' '.join(str(part) for part in command)}")
    return done.stdout


@contextmanager
def timed(what: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    print(f"{time.monotonic() - start:6.1f} s  {what}", flush=True)


def environments(target: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The caller's environment with Rust required, and one in whose PATH there is no cargo."""
    base = {name: value for name, value in os.environ.items() if not name.startswith("ZKTRACE_")}
    # Dependencies of the crate are compiled once for all builds here.
    base.setdefault("CARGO_TARGET_DIR", str(target))
    kept = [
        part
        for part in base["PATH"].split(os.pathsep)
        if not any(shutil.which(tool, path=part) for tool in ("cargo", "rustc"))
    ]
    return {**base, "ZKTRACE_REQUIRE_NATIVE": "1"}, {**base, "PATH": os.pathsep.join(kept)}


def check_sdist(path: Path) -> None:
    with tarfile.open(path) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    for name in (
        "LICENSE",
        "README.md",
        "hatch_build.py",
        "pyproject.toml",
        "server/zktrace_server/__init__.py",
        "proxy/zktrace_proxy/__init__.py",
        "zktrace/py.typed",
        "zktrace/_native/Cargo.toml",
        "zktrace/_native/src/lib.rs",
    ):
        assert name in names, f"{name} is not in the sdist"
    stray = [n for n in names if n.endswith((".so", ".pyd", ".pyc")) or "/target/" in n]
    assert not stray, f"in the sdist: {stray}"


def check_wheel(path: Path, native: bool) -> None:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert top == TOP_LEVEL, f"top-level names in the wheel: {top}"
    assert "zktrace/py.typed" in names
    inside = {name for name in names if name.startswith("zktrace/_native")}
    wanted = {"zktrace/_native.pyi"} | ({"zktrace/_native.abi3.so"} if native else set())
    assert inside == wanted, f"in the wheel: {inside}"
    tag = "-cp311-abi3-" if native else "-py3-none-any."
    assert tag in path.name, f"{path.name} should be tagged {tag}"


def use(scratch: Path, package: Path, kind: str, env: Mapping[str, str]) -> None:
    """Install `package` into a new environment and decode a capture there."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        home = Path(folder)
        venv.create(home / "venv", with_pip=False, symlinks=True)
        python = home / "venv" / "bin" / "python"
        pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
        run(*pip, "install", "--quiet", package, env=env)
        run(*pip, "check", env=env)
        run(python, "-c", PROBE, kind, cwd=home)
        command = home / "venv" / "bin" / "zktrace"
        assert run(command, "--version", cwd=home).startswith("zktrace")
        lines = run(command, "decode", "--json", CAPTURE, cwd=home).splitlines()
        coverage = json.loads(lines[-1])
        assert coverage["kind"] == "coverage", lines[-1]
        assert coverage["exchanges"]["complete"] == EXCHANGES, lines[-1]


def main() -> None:
    crate_target = ROOT / "zktrace" / "_native" / "target"
    with tempfile.TemporaryDirectory(prefix="zktrace-wheel-") as folder:
        scratch = Path(folder)
        with_rust, without_rust = environments(crate_target)
        dist = scratch / "dist"
        build = [sys.executable, "-m", "build", "--no-isolation", "--outdir"]
        with timed("sdist, and a native wheel from the sdist"):
            run(*build, dist, env=with_rust)
            (sdist,) = dist.glob("*.tar.gz")
            (native,) = dist.glob("*.whl")
            check_sdist(sdist)
            check_wheel(native, native=True)
        with timed("a pure wheel, no cargo in PATH"):
            run(*build, scratch / "pure", "--wheel", env=without_rust)
            (pure,) = (scratch / "pure").glob("*.whl")
            check_wheel(pure, native=False)
        with timed(f"install and use {native.name}"):
            use(scratch, native, "native", without_rust)
        with timed(f"install and use {pure.name}"):
            use(scratch, pure, "python", without_rust)
        with timed(f"install and use {sdist.name}, no cargo in PATH"):
            use(scratch, sdist, "python", without_rust)
        with timed(f"install and use {sdist.name}, with cargo"):
            use(scratch, sdist, "native", with_rust)


if __name__ == "__main__":
    main()
