"""Joining the parts of a data set into its prepared form, and cleaning up after it.

The order of the parts is that of their keys. Each part is removed once it is joined, so that the
data never lie on disk twice; a run that was killed goes on with the first part still there.
"""

from __future__ import annotations

import fcntl
import math
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from training.datasets.layout import (
    FORMAT,
    INFO,
    RGB,
    SPLITS,
    ArrayForm,
    DatasetError,
    array_forms,
    read_json,
    write_json,
)
from training.datasets.parts import OPTIONS, PARTS, PartInfo, Shard, read_part_info

_PLAN = "plan.json"
_FINISHED = ".parts-finished"


def is_planned(output: Path) -> bool:
    """Whether all parts were there once and joining has begun, so that none is to be made."""
    return (output / PARTS / _PLAN).exists()


def finished_options(output: Path) -> dict[str, Any] | None:
    """Options of the finished data set in OUTPUT, as ``parts.changed_options`` compares them.

    Returns:
        The options, None if there is no finished data set.

    Raises:
        DatasetError: OUTPUT holds only some splits of one.
    """
    infos = [output / split / INFO for split in SPLITS]
    there = [info.exists() for info in infos]
    if is_planned(output) or not any(there):
        return None
    if not all(there):
        missing = infos[there.index(False)]
        raise DatasetError(f"{output} holds a data set without {missing}; remove {output} first")
    info = read_json(infos[0])
    return {"dataset": info["dataset"], **info["options"]}


def assemble(output: Path) -> dict[str, int]:
    """Join all parts in OUTPUT/parts.

    Returns:
        The number of images of each split.

    Raises:
        DatasetError: shards are missing or parts are corrupt.
    """
    folder = output / PARTS
    shutil.rmtree(output / _FINISHED, ignore_errors=True)
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a directory: there are no parts to join")
    with _locked(folder):
        if not is_planned(output):
            write_json(folder / _PLAN, _plan(folder))
        plan = read_json(folder / _PLAN)
        for split in SPLITS:
            if not (output / split / INFO).exists():
                _join(output, split, plan)
        if plan["problems"]:
            (output / "problems.txt").write_text("".join(f"{line}\n" for line in plan["problems"]))
        folder.rename(output / _FINISHED)
    shutil.rmtree(output / _FINISHED)
    return {split: sum(count for _, count in plan["splits"][split]) for split in SPLITS}


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DatasetError(f"another process is joining the parts in {folder}") from error
        yield


def _plan(folder: Path) -> dict[str, Any]:
    """What goes where, decided once: the parts themselves vanish as they are joined."""
    from genesis_core import __version__  # Here, as it loads torch, which workers do without.

    markers = _markers_of_all_shards(folder)
    paths = sorted(folder.glob("*.npz"))
    parts = [_part_info(path) for path in tqdm(paths, "reading parts", unit=" parts", delay=1)]
    if not any(part.count for part in parts):
        raise DatasetError(f"{folder} holds no images: the source has none that could be used")
    forms = {(p.image_size, p.masks, p.channels, p.depths, p.robot_label) for p in parts}
    if len(forms) > 1:
        raise DatasetError(f"{folder} mixes image sizes, or parts with and without masks or depth")
    unsplit = [part.key for part in parts if part.split is None]
    tenth = len(unsplit) // 10
    chosen = dict.fromkeys(unsplit[:tenth], "val")
    chosen |= dict.fromkeys(unsplit[tenth : 2 * tenth], "test")
    splits: dict[str, list[tuple[str, int]]] = {split: [] for split in SPLITS}
    for part in parts:
        splits[part.split or chosen.get(part.key, "train")].append((part.key, part.count))
    done = [read_json(folder / marker) for marker in markers]
    begun = read_json(folder / OPTIONS)
    if begun["source"] is not None:
        _check_labels(folder, splits, parts)
    return {
        **begun,
        "skipped": begun.get("skipped", 0) + sum(task.get("skipped", 0) for task in done),
        "image_size": parts[0].image_size,
        "masks": parts[0].masks,
        "channels": parts[0].channels,
        "depths": parts[0].depths,
        "robot_label": parts[0].robot_label,
        "problems": [problem for task in done for problem in task["problems"]],
        "label_shares": {split: _label_share(splits[split], parts) for split in SPLITS},
        "version": __version__,
        "splits": splits,
    }


def _check_labels(
    folder: Path, splits: dict[str, list[tuple[str, int]]], parts: list[PartInfo]
) -> None:
    """Check that masks which were read from files label something.

    Raises:
        DatasetError: no pixel of a split is labelled, though its images should show objects.
    """
    for split, keys in splits.items():
        with_objects = sum(part.count - part.blank for part in _chosen(keys, parts))
        if _label_share(keys, parts) == 0 and with_objects > 0:
            raise DatasetError(
                f"{split}: no pixel of the masks of {with_objects} images is labelled, the masks "
                "were read as background alone; mend the source, remove "
                f"{folder} and run the preparation again"
            )


def _label_share(keys: list[tuple[str, int]], parts: list[PartInfo]) -> float | None:
    """The share of a split's pixels that is labelled; None if that is not known."""
    chosen = _chosen(keys, parts)
    pixels = sum(part.count * part.image_size**2 for part in chosen)
    if not pixels or any(part.labelled is None for part in chosen):
        return None
    return sum(part.labelled or 0 for part in chosen) / pixels


def _chosen(keys: list[tuple[str, int]], parts: list[PartInfo]) -> list[PartInfo]:
    names = {key for key, _ in keys}
    return [part for part in parts if part.key in names]


def _markers_of_all_shards(folder: Path) -> list[str]:
    """Names of the task markers of a complete set of shards."""
    found: dict[int, set[int]] = {}
    for path in folder.glob("shard-*-of-*.json"):
        if match := re.fullmatch(r"shard-(\d+)-of-(\d+)\.json", path.name):
            found.setdefault(int(match[2]), set()).add(int(match[1]))
    for total, indices in sorted(found.items()):
        if len(indices) == total:
            shards = [read_json(folder / Shard(index, total).marker) for index in range(total)]
            return sorted(marker for shard in shards for marker in shard["markers"])
    missing = [
        f"{index}/{total}"
        for total, indices in sorted(found.items())
        for index in range(total)
        if index not in indices
    ]
    raise DatasetError(
        f"{folder} is not complete: "
        + (f"shard {', '.join(missing)} is not done" if missing else "no shard is done")
        + "; run the preparation again to resume it"
    )


def _part_info(path: Path) -> PartInfo:
    try:
        return read_part_info(path)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise DatasetError(
            f"{path} is corrupt ({error}); remove it and all task-*.json beside it, and run the "
            "preparation again"
        ) from error


def _join(output: Path, split: str, plan: dict[str, Any]) -> None:
    """Write one split, going on at the first part that is still there."""
    folder = output / split
    folder.mkdir(exist_ok=True)
    paths = [output / PARTS / f"{key}.npz" for key, _ in plan["splits"][split]]
    ends = [0, *accumulate(count for _, count in plan["splits"][split])]
    first = next((i for i, path in enumerate(paths) if path.exists()), len(paths))
    # An older version, whose run is resumed, planned neither channels nor depths.
    forms = array_forms(
        ends[-1],
        plan["image_size"],
        plan.get("channels", RGB),
        masks=plan["masks"],
        depths=plan.get("depths", False),
    )
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(_open_partial(folder / name, form, ends[first]))
            for name, form in forms.items()
        }
        for path in tqdm(
            paths[first:], f"joining {split}", len(paths), initial=first, unit=" parts", delay=1
        ):
            arrays = _read_arrays(path)
            for name, file in files.items():
                array = arrays[Path(name).stem].astype(forms[name].dtype, copy=False)
                file.write(np.ascontiguousarray(array).data)
                file.flush()
                os.fsync(file.fileno())
            path.unlink()
    for name in forms:
        _partial(folder / name).replace(folder / name)
    robot_label = plan.get("robot_label")
    label_share = plan.get("label_shares", {}).get(split)
    write_json(
        folder / INFO,
        {
            "format": FORMAT,
            "dataset": plan["dataset"],
            "split": split,
            "count": ends[-1],
            "image_size": plan["image_size"],
            "channels": plan.get("channels", RGB),
            "source": plan["source"],
            "options": plan["options"],
            "version": plan["version"],
            "problems": len(plan["problems"]),
            "skipped": plan.get("skipped", 0),
            **({} if label_share is None else {"label_share": round(label_share, 6)}),
            **({} if robot_label is None else {"robot_label": robot_label}),
        },
    )


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")


@contextmanager
def _open_partial(path: Path, form: ArrayForm, done: int) -> Iterator[BinaryIO]:
    """Open the unfinished file of an .npy array, positioned behind its first `done` items."""
    partial = _partial(path)
    if path.exists() and not partial.exists():  # Ended between the last part and info.json.
        path.replace(partial)
    with open(partial, "r+b" if partial.exists() else "w+b") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": form.dtype, "fortran_order": False, "shape": form.shape}
        )
        file.flush()
        item = math.prod(form.shape[1:]) * np.dtype(form.dtype).itemsize
        position = file.tell() + done * item
        if os.fstat(file.fileno()).st_size < position:
            raise DatasetError(
                f"{partial} is shorter than it was left; remove {path.parents[1]} and start anew"
            )
        file.seek(position)
        file.truncate()
        yield file


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path) as part:
            return {name: part[name] for name in part.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DatasetError(
            f"{path} is missing or corrupt ({error}); remove {path.parents[1]} and start anew"
        ) from error
