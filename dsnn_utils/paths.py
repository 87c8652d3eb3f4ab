"""Where the project lies, and how a file of it is replaced."""

import os
from contextlib import suppress
from pathlib import Path


def project_root() -> Path:
    """The project's folder, from which relative paths in parameters start.

    Looked for from the working directory upwards (JupyterLab starts kernels in `notebooks/`, plain
    papermill where it was called), then beside the installed package; else the working directory.
    """
    here = Path.cwd()
    for folder in (here, *here.parents, Path(__file__).resolve().parents[1]):
        if (folder / "notebooks").is_dir() and (folder / "dsnn_utils").is_dir():
            return folder
    return here


def write_atomically(path: Path, text: str) -> None:
    """Replace the file at once: whoever reads, and whenever it is killed, finds a whole file.

    Raises OSError naming the file, which then is as it was.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        reason = f"cannot be written ({error.strerror}) and is as it was before"
        raise OSError(error.errno, reason, str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
