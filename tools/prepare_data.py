"""Download a TFDS data set and write it in the format that the trainers read.

python tools/prepare_data.py cifar10 --data-dir data
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

import tensorflow_datasets as tfds


def main(arguments: Sequence[str]) -> int:
    """Prepare the data set named on the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python tools/prepare_data.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", help="name in the TFDS catalogue, such as cifar10")
    parser.add_argument(
        "--data-dir",
        default=os.environ.get("TFDS_DATA_DIR"),
        help="where to write; default: TFDS_DATA_DIR or else ~/tensorflow_datasets",
    )
    options = parser.parse_args(arguments)
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        builder = tfds.builder(options.name, data_dir=options.data_dir)
        if not builder.is_prepared():
            builder.download_and_prepare()
    except tfds.core.DatasetNotFoundError as error:
        return _fail(f"unknown data set '{options.name}': {_first_line(error)}")
    except Exception as error:  # downloads fail in many ways
        return _fail(
            f"{options.name} cannot be prepared: {type(error).__name__}: {_first_line(error)}. "
            "Without a network, prepare it on another machine and copy its directory to --data-dir"
        )
    print(f"{options.name} is ready in {builder.data_path}")
    if options.data_dir:
        print(f"use it with data.data_dir={options.data_dir} or TFDS_DATA_DIR={options.data_dir}")
    return 0


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
