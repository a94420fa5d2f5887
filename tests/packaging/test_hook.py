"""The build hook says in one line why there is no native engine, or fails where told to.

Compilers are stand-ins here; `make wheel-check` runs the real ones.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
VERSION = '#!/bin/sh\necho "rustc {} (0000000 2026-01-01)"\n'


def load_hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("zktrace_hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hook = load_hook()


class Tree:
    """A source tree with a crate and a PATH that holds nothing but the given tools."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.tools = root / "bin"
        self.log = root / "log"
        self.tools.mkdir()
        crate = root / "zktrace" / "_native"
        crate.mkdir(parents=True)
        (crate / "Cargo.toml").write_text('[package]\nrust-version = "1.88"\n')
        for name in ("ZKTRACE_PURE", "ZKTRACE_REQUIRE_NATIVE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PATH", str(self.tools))
        monkeypatch.setenv("ZKTRACE_BUILD_LOG", str(self.log))

    def tool(self, name: str, script: str) -> None:
        path = self.tools / name
        path.write_text(script)
        path.chmod(0o755)

    def build(self, version: str) -> dict[str, Any]:
        data: dict[str, Any] = {"force_include": {}, "pure_python": True}
        made = hook.NativeBuildHook(str(self.root), {}, None, None, str(self.root), "wheel")
        made.initialize(version, data)
        return data

    @property
    def said(self) -> str:
        return self.log.read_text()


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    return Tree(tmp_path, monkeypatch)


def working_cargo(tree: Tree) -> Path:
    library = tree.root / "target" / "lib_native.so"
    library.parent.mkdir()
    library.write_bytes(b"library")
    artifact = json.dumps(
        {
            "reason": "compiler-artifact",
            "target": {"name": "_native"},
            "filenames": [str(library)],
        }
    )
    tree.tool("rustc", VERSION.format("1.99.0"))
    tree.tool("cargo", f"#!/bin/sh\necho '{artifact}'\n")
    return library


PURE = {"force_include": {}, "pure_python": True}


def test_no_cargo(tree: Tree) -> None:
    assert tree.build("standard") == PURE
    assert tree.said == (
        "zktrace: native engine not built (no cargo found; Rust 1.88 or newer is needed): "
        "the Python engine is used\n"
    )


@pytest.mark.parametrize("version", ["1.63.0", "0.99.0", "1.87.1-nightly"])
def test_old_rust(tree: Tree, version: str) -> None:
    tree.tool("rustc", VERSION.format(version))
    tree.tool("cargo", "#!/bin/sh\nexit 1\n")
    assert tree.build("standard") == PURE
    assert "is too old; 1.88 or newer is needed" in tree.said


def test_toolchain_manager_without_a_toolchain(tree: Tree) -> None:
    tree.tool("rustc", "#!/bin/sh\necho 'error: no default toolchain' >&2\nexit 1\n")
    tree.tool("cargo", "#!/bin/sh\nexit 1\n")
    assert tree.build("standard") == PURE
    assert "rustc does not run: error: no default toolchain" in tree.said


def test_failing_build(tree: Tree) -> None:
    tree.tool("rustc", VERSION.format("1.99.0"))
    tree.tool(
        "cargo", "#!/bin/sh\necho '  Updating\nerror: no matching package\nmore' >&2\nexit 101\n"
    )
    assert tree.build("standard") == PURE
    assert "cargo failed: error: no matching package" in tree.said
    assert tree.said.count("\n") == 1


def test_wheel(tree: Tree) -> None:
    library = working_cargo(tree)
    data = tree.build("standard")
    suffix = ".pyd" if sys.platform == "win32" else ".abi3.so"
    assert data["force_include"] == {str(library): "zktrace/_native" + suffix}
    assert data["pure_python"] is False
    assert data["tag"].startswith("cp311-abi3-")
    assert not (tree.root / "zktrace" / ("_native" + suffix)).exists()


def test_editable_install_puts_the_library_in_place(tree: Tree) -> None:
    working_cargo(tree)
    assert tree.build("editable")["force_include"] == {}
    built = tree.root / "zktrace" / ("_native" + hook.extension_suffix())
    assert built.read_bytes() == b"library"
    assert os.access(built, os.X_OK)


def test_pure_on_request_removes_what_an_earlier_build_left(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    working_cargo(tree)
    tree.build("editable")
    monkeypatch.setenv("ZKTRACE_PURE", "1")
    assert tree.build("editable") == PURE
    assert not (tree.root / "zktrace" / ("_native" + hook.extension_suffix())).exists()
    assert "(ZKTRACE_PURE is set)" in tree.said


def test_required_means_error(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZKTRACE_REQUIRE_NATIVE", "1")
    with pytest.raises(RuntimeError, match="no cargo found"):
        tree.build("standard")
