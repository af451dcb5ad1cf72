"""The wheel and the editable install, each built from a copy of the sources, without a network."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {"ebm_wgpu": "ebm_wgpu", "cli": "ebm_wgpu/cli", "wgsl": "ebm_wgpu/wgsl"} | {
    "data": "ebm_wgpu/data"
}
OFFLINE = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
HEAVY = {"torch", "numba", "wgpu", "numpy", "scipy", "h5py", "faiss", "transformers", "datasets"}

CHECK = """
import json
from importlib.metadata import entry_points
from importlib.resources import files
import ebm_wgpu
from ebm_wgpu.text.corpora import load_corpus
from ebm_wgpu.text.tokenizers import make_tokenizer
(command,) = (entry for entry in entry_points(group="console_scripts") if entry.name == "ebm")
print(json.dumps({
    "package": ebm_wgpu.__file__,
    "command": command.load().name,
    "wgsl": sorted(entry.name for entry in files("ebm_wgpu.wgsl").iterdir()),
    "lib": sorted(entry.name for entry in files("ebm_wgpu.wgsl.lib").iterdir()),
    "data": sorted(entry.name for entry in files("ebm_wgpu.data").iterdir()),
    "characters": len(load_corpus("shakespeare", "valid")),
    "hello": make_tokenizer("gpt2", "").encode("Hello world").tolist(),
}))
"""


def run(*command, **kwargs) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, **kwargs
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of what is packaged, since building writes beside the sources."""
    copy = tmp_path_factory.mktemp("checkout")
    for folder in SOURCES:
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "-q", *OFFLINE, "-w", folder, checkout)
    (path,) = folder.glob("*.whl")
    return path


def packaged_files() -> set[str]:
    """Where each source file belongs in the wheel."""
    return {
        f"{target}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, target in SOURCES.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def check_install(found: dict, where: Path) -> None:
    assert Path(found["package"]).is_relative_to(where)
    assert found["command"] == "main"
    for key, folder in (("wgsl", "wgsl"), ("lib", "wgsl/lib"), ("data", "data")):
        expected = {path.name for path in (ROOT / folder).iterdir()}
        assert {*found[key]} - {"__pycache__"} == expected - {"__pycache__"}
    assert found["characters"] == 111_540
    assert found["hello"] == [15496, 995]


def test_the_wheel_holds_every_file_under_one_name(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    (metadata,) = {name.split("/")[0] for name in names} - {"ebm_wgpu"}
    assert metadata.endswith(".dist-info")
    assert {name for name in names if name.startswith("ebm_wgpu/")} == packaged_files()
    assert any(name.endswith("/LICENSE") for name in names)


def test_an_installed_wheel_finds_its_files(wheel, tmp_path):
    site = tmp_path / "site"
    run(sys.executable, "-m", "pip", "install", "-q", *OFFLINE, "--target", site, wheel)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    found = run(sys.executable, "-c", CHECK, cwd=tmp_path, env=environment)
    check_install(json.loads(found), site)


def test_an_editable_install_finds_its_files(checkout, tmp_path):
    home = tmp_path / "venv"
    venv.create(home, with_pip=False)
    paths = {"base": str(home), "platbase": str(home)}
    python = Path(sysconfig.get_path("scripts", "venv", paths)) / Path(sys.executable).name
    site = Path(sysconfig.get_path("purelib", "venv", paths))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--ignore-installed"]
    run(*pip, *OFFLINE, "--editable", checkout)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    found = run(python, "-c", CHECK, cwd=tmp_path, env=environment)
    check_install(json.loads(found), checkout)
    for name in ("cli", "wgsl", "data"):
        code = f"import importlib.util; print(importlib.util.find_spec({name!r}))"
        assert run(python, "-c", code, cwd=tmp_path, env=environment).strip() == "None"


@pytest.mark.parametrize("statement", ["import ebm_wgpu", "from ebm_wgpu.cli import main"])
def test_importing_loads_nothing_heavy(statement):
    code = f"{statement}\nimport sys\nprint(*{HEAVY} & sys.modules.keys())"
    assert run(sys.executable, "-c", code).split() == []


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom ebm_wgpu.cli import main\n"
        "print(main(['--help'], standalone_mode=False) or '')\n"
        f"print('loaded:', *{HEAVY} & sys.modules.keys())"
    )
    lines = run(sys.executable, "-c", code).splitlines()
    assert lines[0].startswith("Usage:")
    assert lines[-1] == "loaded:"


def test_the_version_is_stated_once_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    code = "import ebm_wgpu; print(ebm_wgpu.__version__)"
    assert run(sys.executable, "-c", code).strip() == project["version"]
