"""Where the project lies, how a file of it is replaced, and how one of JSON is read."""

import json
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


def read_json(path: str | Path, name: str):
    """The content of a JSON file.

    Raises ValueError naming the parameter `name`, the file and, where there is one, the line: for a
    file that cannot be read, text that is no JSON, NaN or infinity, and a key given twice.
    """

    def object_of(pairs: list[tuple]) -> dict:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            raise ValueError(f"has {next(k for k in keys if keys.count(k) > 1)!r} twice")
        return found

    def no_number(text: str):
        raise ValueError(f"has {text}")

    try:
        text = Path(path).read_text(encoding="utf-8")
        return json.loads(text, object_pairs_hook=object_of, parse_constant=no_number)
    except json.JSONDecodeError as error:
        reason = f"line {error.lineno}: {error.msg}"
    except OSError as error:
        reason = str(error.strerror)
    except (ValueError, RecursionError) as error:
        reason = str(error)
    raise ValueError(f"{name}={str(path)!r}: must be a file of JSON ({reason})")
