"""Archives of runs: zip files that hold run directories as they are.

An archive keeps what figures and tables are drawn from: `config.yaml`, `run.json` and the CSV
files of each run.
"""

import posixpath
import zipfile
from pathlib import Path

from trainers import run_directory
from trainers.errors import UserError

SUFFIX = ".zip"
# Bytes of all members together; a run of the paper's length has a few millions.
_MOST_BYTES = 2**30
_MODE = 0o100644 << 16  # a regular file that everybody may read


def pack(runs: Path, archive: Path) -> int:
    """Write the runs below a directory to an archive, and return how many there are.

    Members start with the directory's name. The same runs give the same archive, whatever the
    dates of their files.

    Raises:
        UserError: There are no runs.
    """
    records = runs.rglob(run_directory.RUN)
    directories = [p.parent for p in records if not run_directory.is_replaced(p.relative_to(runs))]
    if not directories:
        raise UserError(f"no runs below {runs}: expected directories that hold a run.json")
    kept = (run_directory.CONFIG, run_directory.RUN)
    files = [
        path
        for directory in directories
        for path in directory.iterdir()
        if path.name in kept or path.suffix == ".csv"
    ]
    parent = runs.resolve().parent
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(path.resolve() for path in files):
            member = zipfile.ZipInfo(path.relative_to(parent).as_posix())  # dated 1980
            member.external_attr = _MODE
            file.writestr(member, path.read_bytes(), zipfile.ZIP_DEFLATED, compresslevel=9)
    return len(directories)


def run_directories(archive: Path) -> list[zipfile.Path]:
    """Find the run directories in an archive, after checking every member.

    Raises:
        UserError: The file is damaged, or is no archive.
    """
    try:
        file = zipfile.ZipFile(archive)
        size = sum(member.file_size for member in file.infolist())
        if size > _MOST_BYTES:
            raise ValueError(f"it holds {size:,} bytes, more than {_MOST_BYTES:,}")
        damaged = file.testzip()
    except Exception as error:  # damage surfaces as errors of many types
        raise UserError(f"{archive} cannot be read as a zip archive: {error}") from error
    if damaged is not None:
        raise UserError(f"{archive} is damaged: {damaged} does not match its checksum")
    records = [name for name in file.namelist() if posixpath.basename(name) == run_directory.RUN]
    return [zipfile.Path(file, posixpath.dirname(name)) for name in sorted(records)]
