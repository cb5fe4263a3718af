"""Structure of the repository: directions of imports, one importer per boundary, content of the model repository."""

from __future__ import annotations

import ast
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
CONTRACT = ROOT / "contract"
SERVING = ROOT / "serving" / "flux_serving"
CLIENT = ROOT / "client" / "flux_client"
GATEWAY = ROOT / "gateway" / "flux_gateway"
TOOLS = ROOT / "tools" / "flux_tools"
PRODUCT = (CONTRACT, SERVING, CLIENT, GATEWAY)

#: Packages that each package may import, beside itself and the contract.
MAY_IMPORT: dict[str, set[str]] = {
    "flux_contract": set(),
    "flux_rendering": set(),
    "flux_client": set(),
    "flux_gateway": {"flux_client"},
    "flux_serving.checkpoint_files": set(),
    "flux_serving.settings": {"flux_serving.checkpoint_files"},
    "flux_serving.images": set(),
    "flux_serving.network": {"flux_serving.checkpoint_files", "flux_serving.settings"},
    "flux_serving.conditioning": {"flux_serving.network", "flux_serving.images"},
    "flux_serving.sampling": {
        *("flux_serving.conditioning", "flux_serving.network", "flux_serving.images"),
        "flux_serving.settings",
    },
    "flux_serving.scheduling": set(),
    "flux_serving.backend": {
        *("flux_serving.sampling", "flux_serving.conditioning", "flux_serving.network", "flux_serving.images"),
        *("flux_serving.scheduling", "flux_serving.settings", "flux_serving.checkpoint_files"),
    },
    "flux_serving.launch": {"flux_rendering", "flux_serving.settings"},
}


def imports_of(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files(*folders: Path) -> list[Path]:
    return [file for folder in folders for file in sorted(folder.rglob("*.py"))]


def importers_of(package: str, *folders: Path) -> set[str]:
    return {
        str(file.relative_to(ROOT).parent if file.parent.name != "flux_serving" else file.relative_to(ROOT))
        for file in files(*folders)
        if any(name == package or name.startswith(f"{package}.") for name in imports_of(file))
    }


def package_of(name: str) -> str:
    """Return the package of a module, as named in MAY_IMPORT."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "flux_serving" else parts[0]


def files_of(package: str) -> list[Path]:
    top, *below = package.split(".")
    folder = next(
        found for root in ("contract", "serving", "client", "gateway") for found in ROOT.glob(f"{root}/{top}")
    )
    return files(folder.joinpath(*below)) or [folder.joinpath(*below).with_suffix(".py")]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_run_one_way(package: str) -> None:
    allowed = {"flux_contract", package, *MAY_IMPORT[package]}
    for file in files_of(package):
        for name in imports_of(file):
            if name.startswith("flux_"):
                assert package_of(name) in allowed, f"{file.relative_to(ROOT)} imports {name}"


def test_product_does_not_import_the_tools() -> None:
    assert importers_of("flux_tools", *PRODUCT) == set()


def test_each_third_party_boundary_has_one_importer() -> None:
    assert importers_of("triton_python_backend_utils", *PRODUCT) == {"serving/flux_serving/backend"}
    assert importers_of("tritonclient", *PRODUCT) == {"client/flux_client"}
    assert importers_of("pytriton", *PRODUCT) == set()
    assert importers_of("cv2", *PRODUCT) == {"serving/flux_serving/images"}
    assert importers_of("transformers", *PRODUCT) == {"serving/flux_serving/network"}


def test_only_the_backend_reads_the_tensors_of_a_request() -> None:
    """The other packages accept typed options."""
    for file in files(SERVING):
        if file.parent != SERVING / "backend":
            assert "[str, Array]" not in file.read_text(), file.relative_to(ROOT)


def test_contract_and_scheduler_do_not_import_torch() -> None:
    torch_free = [CONTRACT, SERVING / "scheduling", SERVING / "launch", CLIENT, GATEWAY]
    assert importers_of("torch", *torch_free) == set()


@pytest.mark.parametrize(
    "module", ["flux_client", "flux_gateway.app", "flux_rendering.pbtxt", "flux_serving.launch.server"]
)
def test_import_does_not_load_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("model", ["canny_edges", "image_encode", "flux_stream", "flux_status"])
def test_cpu_models_do_not_load_torch(model: str) -> None:
    """torch takes about 250 MB in each process, and a second of the start."""
    code = (
        "import sys, importlib, fake_triton; fake_triton.install(); "
        f"importlib.import_module('flux_serving.backend.{model}'); sys.exit('torch' in sys.modules)"
    )
    path = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    subprocess.run([sys.executable, "-c", code], check=True, env=path)


def test_model_repository_contains_only_models() -> None:
    from flux_contract.models import ENSEMBLES, MODELS

    repository = ROOT / "model_repository"
    assert {p.name for p in repository.iterdir()} == {model.name for model in (*MODELS, *ENSEMBLES)}


def test_every_model_py_is_a_thin_entry_point() -> None:
    from flux_contract.models import MODELS
    from flux_serving.backend.entry_point import EntryPoint

    files = sorted((ROOT / "model_repository").glob("*/1/model.py"))
    assert len(files) == len(MODELS)
    # Triton 26.03 and newer call it.
    assert callable(EntryPoint.is_ready)
    for file in files:
        assert len(file.read_text().splitlines()) <= 14, file
        assert list(imports_of(file)) == ["flux_serving.backend.entry_point.EntryPoint"]
        model = runpy.run_path(str(file))["TritonPythonModel"]
        assert issubclass(model, EntryPoint)
        module, _, name = model.backend.partition(":")
        tree = ast.parse((ROOT / "serving" / module.replace(".", "/")).with_suffix(".py").read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}, file


def test_reading_model_py_does_not_load_torch() -> None:
    """Triton also reads it in a process that runs no model."""
    file = ROOT / "model_repository" / "flux_base" / "1" / "model.py"
    code = f"import runpy, sys; runpy.run_path({str(file)!r}); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tensor_names_are_literals_only_in_the_contract() -> None:
    from flux_contract.models import ENSEMBLES, MODELS

    names = {t.name for model in (*MODELS, *ENSEMBLES) for t in (*model.inputs, *model.outputs)}
    for file in files(SERVING, CLIENT):
        tree = ast.parse(file.read_text())
        documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
                words = set(re.findall(r"[A-Z_]+", node.value))
                assert not words & names, f"{file.relative_to(ROOT)}: {node.value!r}"


def test_committed_files_match_the_rendered_ones() -> None:
    subprocess.run([sys.executable, ROOT / "scripts" / "render", "--check"], check=True)


def test_test_files_have_unique_names() -> None:
    """pytest imports test files by name, and fails at the second file of a name."""
    names = [file.name for file in sorted((ROOT / "tests").rglob("test_*.py"))]
    assert sorted(names) == sorted(set(names))
