"""Joining the parts of a data set into its prepared form, and cleaning up after it.

The order of the parts is that of their keys. Each part is removed once it is joined, so that the
data never lie on disk twice; a run that was killed goes on with the first part still there.
"""

from __future__ import annotations

import fcntl
import math
import os
import shutil
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import accumulate, takewhile
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
    UInt8,
    array_forms,
    read_json,
    write_json,
)
from training.datasets.likeness import LIKE_BEFORE, Seen, are_alike
from training.datasets.parts import DONE, OPTIONS, PARTS, PartInfo, read_part_info

_PLAN = "plan.json"
_FINISHED = ".parts-finished"
_LIKE_ANOTHER = {
    "train": "train images nearly the same as one to validate or test on (--min-change)",
    "val": "images to validate on nearly the same as a test image (--min-change)",
}


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
        DatasetError: parts are missing or corrupt.
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

    if not (folder / DONE).exists():
        raise DatasetError(f"{folder} is not complete; run the preparation again to resume it")
    done = [read_json(folder / marker) for marker in read_json(folder / DONE)["markers"]]
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
    left_out = Counter[str]()
    for counts in (*(part.left_out for part in parts), *(task["left_out"] for task in done)):
        left_out.update(counts)
    dropped, reasons = _dropped(folder, splits, {part.key: part for part in parts})
    left_out.update(reasons)
    for split in SPLITS:
        kept = [(key, count - len(dropped.get(key, ()))) for key, count in splits[split]]
        had_some = any(count for _, count in splits[split])
        if had_some and split == "train" and not any(count for _, count in kept):
            raise DatasetError(
                f"every image of {split} shows nearly the same as one held out: the source has too "
                "little variety; --min-change 0 keeps them"
            )
        splits[split] = kept
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
        "left_out": dict(left_out),
        "dropped": dropped,
        "label_shares": {split: _label_share(splits[split], parts) for split in SPLITS},
        "version": __version__,
        "splits": splits,
    }


def _dropped(
    folder: Path, splits: dict[str, list[tuple[str, int]]], parts: dict[str, PartInfo]
) -> tuple[dict[str, list[int]], Counter[str]]:
    """Images that show nearly the same as another one.

    The first images of a part must not look like the last of the part before, as within a part
    (shots.py). Of the others, test images stay, and so do images to validate on that look like none
    of them; training images must look like neither.

    Returns:
        Row numbers by key, of parts that lose some, and how many images are lost for what reason.
    """
    dropped: dict[str, list[int]] = {}
    reasons = Counter[str]()
    kept: list[UInt8] = []
    for split in reversed(SPLITS):
        seen = Seen(np.concatenate(kept)) if kept else None
        last: dict[str, UInt8] = {}  # of the recording, whose parts follow one another
        # What trains is only looked at part by part: it may be more than memory holds.
        for key, _ in tqdm(splits[split], f"comparing {split}", unit=" parts", delay=1):
            min_change = parts[key].min_change
            if not min_change:
                continue
            small = _read_arrays(folder / f"{key}.npz", ("thumbnails",))["thumbnails"]
            recording, _, _ = key.rpartition("-")
            first = _count_alike(small, last.get(recording), min_change)
            if first < len(small):
                last = {recording: small[-1]}
            alike = np.zeros(len(small), bool) if seen is None else seen.like(small, min_change)
            reasons[LIKE_BEFORE] += first
            if seen is not None:
                reasons[_LIKE_ANOTHER[split]] += int(alike[first:].sum())
            alike[:first] = True
            if alike.any():
                dropped[key] = np.flatnonzero(alike).tolist()
            if split != "train":
                kept.append(small[~alike])
    return dropped, +reasons


def _count_alike(thumbnails: UInt8, before: UInt8 | None, min_change: float) -> int:
    """How many of the first images are alike to the one before them."""
    if before is None:
        return 0
    alike = (are_alike(small, before, min_change) for small in thumbnails)
    return sum(1 for _ in takewhile(bool, alike))


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
            arrays = _read_arrays(path, [Path(name).stem for name in forms])
            dropped = plan.get("dropped", {}).get(path.stem, [])
            for name, file in files.items():
                array = arrays[Path(name).stem].astype(forms[name].dtype, copy=False)
                if dropped:
                    array = np.delete(array, dropped, axis=0)
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
            "left_out": plan.get("left_out", {}),
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


def _read_arrays(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path) as part:
            return {name: part[name] for name in names}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DatasetError(
            f"{path} is missing or corrupt ({error}); remove {path.parents[1]} and start anew"
        ) from error
