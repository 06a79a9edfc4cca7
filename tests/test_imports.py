"""The house's import rule: a batch flows one way, and each heavy library has one door (ARCHITECTURE.md)."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
HOUSE = ROOT / "lvit_jax"
# room -> the rooms it may import; errors may be imported by all.
MAY = {
    "errors": set(),
    "types": set(),
    "tree": set(),
    "models": {"tree"},
    "data": set(),
    "objectives": {"types", "models", "tree"},
    "training": {"types", "tree"},
    "evals": {"types", "data", "models", "tree"},
    "convert": {"models", "tree"},
    "build": {"types", "tree", "models", "data", "objectives", "training", "evals", "convert"},
}
# library -> the places that may import it.
DOORS = {
    "tensorflow": ("data/",),
    "tensorflow_datasets": ("data/",),
    "torch": ("convert/files.py", "convert/compare.py", "convert/torchvision.py", "bin/bench_"),
    "imagecorruptions": ("data/corrupt.py",),
    "orbax": ("training/checkpoint.py",),
    "argparse": ("bin/", "convert/files.py"),  # files.py allows Namespaces in checkpoints
}


def imports():
    """(file relative to the package, its room, imported module) for every import anywhere in a file."""
    for path in HOUSE.rglob("*.py"):
        relative = path.relative_to(HOUSE)
        room = relative.parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((str(relative), room, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield str(relative), room, node.module
                yield from ((str(relative), room, f"{node.module}.{alias.name}") for alias in node.names)


def test_rooms_import_in_one_direction():
    wrong = []
    for file, room, module in imports():
        parts = module.split(".")
        if parts[0] == "lvit_jax" and len(parts) > 1 and room in MAY:
            target = parts[1]
            if target not in MAY[room] | {room, "errors"}:
                wrong.append(f"{file} imports {module}")
    assert not wrong


def test_nothing_imports_binaries_but_binaries():
    assert not [f"{file}: {m}" for file, room, m in imports() if m.startswith("lvit_jax.bin") and room != "bin"]


def test_libraries_have_one_door():
    wrong = [
        f"{file} imports {module}"
        for file, _, module in imports()
        if module.split(".")[0] in DOORS and not file.startswith(DOORS[module.split(".")[0]])
    ]
    assert not wrong


def test_the_command_line_needs_no_jax():
    code = "import sys, lvit_jax.bin.app, lvit_jax.bin.flags; assert not {'jax','tensorflow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
