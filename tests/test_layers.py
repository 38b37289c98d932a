"""Who may import whom (the arrows of DECISIONS.md), read from the source with `ast`."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "genodiff"

# The sub-packages and root modules of genodiff that each sub-package may import, besides itself.
ALLOWED = {
    "diffusion": {"errors"},
    "ops": {"errors"},
    "backbones": {"ops", "errors"},
    "data": {"batch", "errors", "files"},
    "training": {"diffusion", "backbones", "batch", "errors", "files", "ranks"},
    "evaluation": {"diffusion", "backbones", "batch", "errors", "files", "ranks"},
    "tasks": {
        *("diffusion", "backbones", "data", "training", "evaluation"),
        *("batch", "config", "errors", "files", "parts", "ranks"),
    },
}
# Third-party packages that only some layers may import.
RESERVED = {
    "hydra": {"tasks"},
    "omegaconf": {"tasks"},
    "lightning": {"training", "tasks"},
    "pyfaidx": {"data"},
    "Bio": {"data"},
}


def imported_modules(path: Path) -> set[str]:
    """Dotted names of everything a file imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
    return found


@pytest.mark.parametrize("layer", sorted(ALLOWED))
def test_imports_flow_one_way(layer: str) -> None:
    files = sorted((PACKAGE / layer).rglob("*.py"))
    assert len(files) >= 2
    for path in files:
        for name in imported_modules(path):
            parts = name.split(".")
            if parts[0] == "genodiff" and len(parts) > 1:
                assert parts[1] in ALLOWED[layer] | {layer}, f"{path} imports {name}"
            if parts[0] in RESERVED:
                assert layer in RESERVED[parts[0]], f"{path} imports {name}"


def test_every_folder_of_the_package_is_a_known_layer() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == set(ALLOWED)


def test_the_command_line_imports_only_the_standard_library() -> None:
    heavy = {name.split(".")[0] for name in imported_modules(PACKAGE / "cli.py")}
    assert heavy & {"torch", "lightning", "hydra", "numpy"} == set()
    assert imported_modules(PACKAGE / "__init__.py") == set()
