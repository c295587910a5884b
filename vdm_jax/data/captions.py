"""The user's images with captions, `data.name='captions'`: a folder, shards, or an `.npz` file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from etils import epath

from vdm_jax.data import caption_tables, captioning, folder, layout, messages, npz, shards
from vdm_jax.data import resize as resizing
from vdm_jax.data.captioning import Captioned, Texts
from vdm_jax.data.listing import is_hidden
from vdm_jax.data.paths import SPLIT_SEED, existing, split_indices
from vdm_jax.data.sources import Source, read_file, take
from vdm_jax.errors import Undecodable, UserError

_WHAT = "a folder of images with .txt files or captions.jsonl, of .tar shards, or an .npz file with captions"
_READERS = 16


def read(part: str, path: str, shape: Sequence[int] | None, resize: str = "") -> tuple[Source, str]:
    """Records with "caption", and "captions" where any image has several.

    A folder of images, read as 'folder' is, with their captions in `name.txt` beside `name.png`, one a line, or in
    `captions.jsonl` or `captions.csv` (or `metadata.…`) with the fields file_name and caption (or text), an image in
    as many lines as it has captions; or a folder of .tar shards, or one of these; or an `.npz` file, read as 'npz' is,
    with an array `captions` of strings, [N] or [N, K]. Raises UserError for an image without a caption, and for an
    empty one.
    """
    root = existing(path, _WHAT)
    if root.is_dir() and not (found := _tars(root)):
        return _read_folder(part, path, root, shape, resize)
    if root.is_dir() or root.suffix.lower() == ".tar":
        return _read_shards(part, path, found if root.is_dir() else [root], shape, resize)
    if resize:
        raise UserError(f"data.resize={resize!r} is for image files and data.path={path!r} is an array; set it to ''")
    return _read_npz(part, path, root, shape)


# ---------------------------------------------------------------- a folder of images


def _read_folder(
    part: str, path: str, root: epath.Path, shape: Sequence[int] | None, resize: str
) -> tuple[Source, str]:
    source, version = folder.read(part, path, shape, resize, (".txt", ".jsonl", ".csv"))
    table = caption_tables.read(root)
    texts = _of_table(table, source.paths, root) if table else _beside(source.paths)
    return _captioned(source, texts, version)


def _captioned(source: Source, texts: Sequence[Texts], version: str) -> tuple[Captioned, str]:
    """Add the captions to the images, and their hash to the version."""
    return captioning.captioned(source, texts), f"{version}, captions {captioning.digest(texts)}"


def _of_table(table: caption_tables.Table, paths: Sequence[str], root: epath.Path) -> list[Texts]:
    """Look up the captions of images by their paths."""
    prefix = str(root).rstrip("/") + "/"
    found = [table.texts.get(path.removeprefix(prefix)) for path in paths]
    missing = [path for path, texts in zip(paths, found, strict=True) if texts is None]
    if missing:
        raise UserError(
            f"{len(missing):,} of {len(paths):,} images, such as {missing[0]}, have no line in {table.where}; write "
            "their captions, or move the images elsewhere"
        )
    return [texts for texts in found if texts is not None]


def _beside(paths: Sequence[str]) -> list[Texts]:
    """Read the captions from a text file for each image."""
    with ThreadPoolExecutor(_READERS if "://" in paths[0] else 1) as pool:
        found = list(pool.map(_text_file, paths))
    missing = [path for path, texts in zip(paths, found, strict=True) if texts is None]
    if missing:
        raise UserError(
            f"{len(missing):,} of {len(paths):,} images, such as {missing[0]}, have no caption; write it to "
            f"{_text_path(missing[0])}, or all of them to captions.jsonl"
        )
    return [texts for texts in found if texts is not None]


def _text_path(path: str) -> str:
    return re.sub(r"\.[^./]*$", ".txt", path)


def _text_file(path: str) -> Texts | None:
    where = _text_path(path)
    if "://" not in where and not epath.Path(where).exists():
        return None
    try:
        text = read_file(where).decode("utf-8-sig")
    except Undecodable as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise UserError(str(error)) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not readable text ({error}); write it again as UTF-8") from error
    return captioning.clean([line for line in text.splitlines() if line.strip()], where)


# ---------------------------------------------------------------- shards


def _tars(root: epath.Path) -> list[epath.Path]:
    """Return the shards of a folder and of its subfolders, sorted by name."""
    inside = [each for pattern in ("*.tar", "*/*.tar") for each in root.glob(pattern)]
    return sorted((each for each in inside if not is_hidden(each.name)), key=str)


def _read_shards(
    part: str, path: str, tars: list[epath.Path], shape: Sequence[int] | None, resize: str
) -> tuple[Source, str]:
    if shape and (len(shape) != 3 or shape[-1] not in (1, 3)):
        raise UserError(f"data.shape={tuple(shape)} can't be read from image files; use (height, width, 1 or 3)")
    chosen, how = _part_of_shards(part, path, tars)
    fit = resizing.make(resize, "captions", shape)
    source, texts, names = shards.open_shards(chosen, int(shape[-1]) if shape else 3, fit)
    order, how = _order(len(source), part, how, path)
    files = [(name, str(size)) for name, size in zip(names, source.sizes.tolist(), strict=True)]
    version = f"{len(tars):,} shards, {captioning.digest(files)} {how}{f', resize {resize}' if resize else ''}"
    return _captioned(take(source, order), [texts[k] for k in order], version)


def _order(count: int, part: str, how: str, path: str) -> tuple[np.ndarray, str]:
    """Return the indices of the images of a part in their order, and a description of how they were chosen."""
    if how:  # the last tenth of the training images is for tuning, and shards may be sorted
        shuffled = part == "train"
        return np.random.default_rng(SPLIT_SEED).permutation(count) if shuffled else np.arange(count), how
    order = split_indices(count, part)
    if not len(order):
        raise UserError(f"data.path={path!r} has {count} images, too few to hold out a tenth; add some")
    return order, f"split 90/10 seed {SPLIT_SEED}"


def _part_of_shards(part: str, path: str, tars: list[epath.Path]) -> tuple[list[epath.Path], str]:
    """Return the shards of a part, by their names or subfolders, and a description; or all shards and ''."""
    root = epath.Path(path).expanduser()
    if tars == [root]:
        return tars, ""
    folder_of = lambda tar: "" if tar.parent == root else layout.part_of(tar.parent.name)
    parts = [shards.part_in_name(tar.name) or folder_of(tar) for tar in tars]
    if not any(parts):
        return tars, ""
    for each in layout.PARTS:
        if each not in parts:
            raise UserError(
                f"data.path={path!r} has no shards for {each}, such as {each}-00000.tar, though {tars[0].name} is for "
                f"{parts[0] or 'neither part'}; add them, or give the shards names without 'train' and 'test'"
            )
    unread = [tar.name for tar, each in zip(tars, parts, strict=True) if not each]
    if unread:
        messages.once(f"data.path={path!r}: not read are {len(unread):,} shards for neither part, such as {unread[0]}")
    return [tar for tar, each in zip(tars, parts, strict=True) if each == part], f"{part}-*.tar"


# ---------------------------------------------------------------- arrays


def _read_npz(part: str, path: str, file: epath.Path, shape: Sequence[int] | None) -> tuple[Source, str]:
    source, version = npz.read(part, path, shape)
    try:
        with file.open("rb") as stream:
            array, key = _caption_array(np.load(stream, allow_pickle=False), part, file.name)
    except UserError:
        raise
    except ValueError as error:  # objects, which would need pickle
        raise UserError(f"captions of {file.name} can't be read ({error}); save strings, np.array(captions)") from error
    if array.dtype.kind != "U" or array.ndim not in (1, 2):
        raise UserError(
            f"{key} of {file.name} is {array.dtype} {array.shape}; save strings, np.array(captions), as (N,) or (N, K)"
        )
    rows = array.tolist()
    if "_" not in key:  # the images were split, by their number
        images = npz.count(file)
        _same(len(rows), images, key, file.name)
        rows = [rows[k] for k in split_indices(images, part)]
    _same(len(rows), len(source), key, file.name)
    texts = []
    for number, row in enumerate(rows):
        several = [row] if isinstance(row, str) else [text for text in row if text.strip()]  # '' fills rows up
        texts.append(captioning.clean(several, f"caption {number} of {key} in {file.name}"))
    return _captioned(source, texts, version)


def _caption_array(arrays: Mapping[str, np.ndarray], part: str, name: str) -> tuple[np.ndarray, str]:
    """Return the strings and the name of their array, 'captions_train' or similar for split images, else 'captions'."""
    stems = ("captions", "caption")
    for key in arrays:
        stem, _, of = key.lower().partition("_")
        if stem in stems and layout.part_of(of) == part:
            return arrays[key], key
    found = next((stem for stem in stems if stem in arrays), None)
    if found is None:
        raise UserError(f"{name} holds {', '.join(arrays)} and no captions; save them too, captions=np.array(captions)")
    return arrays[found], found


def _same(captions: int, images: int, key: str, name: str) -> None:
    if captions != images:
        raise UserError(f"{key} of {name} holds {captions:,} captions for {images:,} images; write one each")
