"""Build hook: compiles the Rust crate in zktrace/_native and puts the result beside it.

An editable install gets `zktrace/_native.abi3.so` in the source tree, a wheel gets it inside
under the same name and is tagged cp311-abi3-<platform>. Without a usable Rust toolchain, or when
the build fails, the wheel is pure Python (the Python engine does the same work, slower) and one
line says why.

Environment:
  ZKTRACE_PURE=1            do not build the extension
  ZKTRACE_REQUIRE_NATIVE=1  not being able to build the extension is an error
  ZKTRACE_BUILD_LOG=FILE    append that one line to FILE too (pip hides what a backend prints)

This file must not import zktrace: it runs before anything is installed.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

CRATE = Path("zktrace", "_native")
LIB_NAME = "_native"


class NoNative(Exception):
    """Why the extension cannot be built, in words that fit on one line."""


class NativeBuildHook(BuildHookInterface[Any]):
    """Hatchling calls `initialize` before it collects the files of a wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        in_place = root / "zktrace" / (LIB_NAME + extension_suffix())
        try:
            if env_flag("ZKTRACE_PURE"):
                raise NoNative("ZKTRACE_PURE is set")
            library = build(root / CRATE)
        except NoNative as reason:
            if env_flag("ZKTRACE_REQUIRE_NATIVE"):
                raise RuntimeError(
                    f"zktrace: the native engine was not built: {reason} "
                    "(ZKTRACE_REQUIRE_NATIVE is set, so this is an error)"
                ) from None
            if version == "editable":
                # One left by an earlier build would go on being imported, older than the sources.
                in_place.unlink(missing_ok=True)
            self.report(f"zktrace: native engine not built ({reason}): the Python engine is used")
            return
        if version == "editable":
            replace_file(library, in_place)
        else:
            target = f"zktrace/{LIB_NAME}{extension_suffix()}"
            build_data["force_include"][str(library)] = target
        build_data["pure_python"] = False
        build_data["tag"] = f"cp311-abi3-{platform_tag()}"
        self.report(f"zktrace: native engine built for {build_data['tag']}")

    def report(self, line: str) -> None:
        self.app.display_info(line)
        log = os.environ.get("ZKTRACE_BUILD_LOG")
        if log:
            with open(log, "a", encoding="utf-8") as out:
                out.write(line + "\n")


def env_flag(name: str) -> bool:
    return os.environ.get(name, "") not in ("", "0")


def extension_suffix() -> str:
    """The name CPython looks for: the stable ABI's own on POSIX, plain .pyd on Windows."""
    return ".pyd" if sys.platform == "win32" else ".abi3.so"


def platform_tag() -> str:
    """The wheel's platform. Cargo builds for one architecture, even for a universal Python."""
    if sys.platform == "darwin":
        machine = platform.machine()
        default = "11.0" if machine == "arm64" else "10.12"  # rustc's own deployment targets
        major, minor = os.environ.get("MACOSX_DEPLOYMENT_TARGET", default).split(".")[:2]
        return f"macosx_{major}_{minor}_{machine}"
    return re.sub(r"[-.]", "_", sysconfig.get_platform())


def build(crate: Path) -> Path:
    """Run cargo and return the path of the library, or raise NoNative."""
    check_python()
    check_toolchain(crate)
    env = dict(os.environ)
    # The stable ABI needs no interpreter to compile against. Naming one would rebuild PyO3 for
    # each build environment.
    env["PYO3_NO_PYTHON"] = "1"
    # An extension leaves Python's symbols to the process that loads it.
    env["PYO3_BUILD_EXTENSION_MODULE"] = "1"
    # Without a lock file (it would name a registry's host), prefer dependencies that this
    # compiler can build.
    env.setdefault("CARGO_RESOLVER_INCOMPATIBLE_RUST_VERSIONS", "fallback")
    # Line numbers for a profiler are three quarters of the library; set the first to 1 for them.
    env.setdefault("CARGO_PROFILE_RELEASE_DEBUG", "0")
    env.setdefault("CARGO_PROFILE_RELEASE_STRIP", "debuginfo")
    command = ["cargo", "rustc", "--release", "--lib", "--crate-type", "cdylib"]
    command += ["--manifest-path", str(crate / "Cargo.toml")]
    command += ["--message-format", "json-render-diagnostics"]
    if sys.platform == "darwin":
        command += ["--", "-C", "link-arg=-undefined", "-C", "link-arg=dynamic_lookup"]
    try:
        done = subprocess.run(
            command, env=env, capture_output=True, encoding="utf-8", errors="replace"
        )
    except OSError as error:
        raise NoNative(f"cargo does not run: {error}") from None
    if done.returncode != 0:
        sys.stderr.write(done.stderr)
        raise NoNative(f"cargo failed: {first_error(done.stderr)}")
    for line in done.stdout.splitlines():
        message = json.loads(line) if line.startswith("{") else {}
        if message.get("reason") != "compiler-artifact" or message["target"]["name"] != LIB_NAME:
            continue
        for name in message["filenames"]:
            if name.endswith((".so", ".dylib", ".dll")):
                return Path(name)
    raise NoNative("cargo named no library")


def check_python() -> None:
    if platform.python_implementation() != "CPython":
        raise NoNative(f"{platform.python_implementation()} has no stable ABI of CPython's")
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise NoNative("free-threaded Python has no stable ABI")


def check_toolchain(crate: Path) -> None:
    """Is there a compiler, and is it as new as Cargo.toml asks?"""
    wanted = tomllib.loads((crate / "Cargo.toml").read_text("utf-8"))["package"]["rust-version"]
    for tool in ("cargo", "rustc"):
        if shutil.which(tool) is None:
            raise NoNative(f"no {tool} found; Rust {wanted} or newer is needed")
    try:
        said = subprocess.run(["rustc", "--version"], capture_output=True, text=True, cwd=crate)
    except OSError as error:
        raise NoNative(f"rustc does not run: {error}") from None
    found = re.match(r"rustc (\d+)\.(\d+)", said.stdout)
    if said.returncode != 0 or found is None:
        raise NoNative(f"rustc does not run: {first_error(said.stderr)}")
    if (int(found[1]), int(found[2])) < tuple(int(n) for n in wanted.split(".")[:2]):
        raise NoNative(f"Rust {found[1]}.{found[2]} is too old; {wanted} or newer is needed")


def first_error(text: str) -> str:
    """The line of cargo's output that tells most, shortened."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = next((line for line in lines if line.startswith("error")), lines[-1] if lines else "")
    return (told or "no reason given")[:200]


def replace_file(source: Path, target: Path) -> None:
    """Copy by way of a new file: a process that has the old library mapped keeps the old one."""
    with tempfile.NamedTemporaryFile(
        dir=target.parent, prefix=".native-", delete=False
    ) as temporary:
        temporary.write(source.read_bytes())
    os.chmod(temporary.name, 0o755)
    os.replace(temporary.name, target)
