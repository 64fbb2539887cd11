"""Damage: a small random change of a file, of its bytes or of what they mean.

Every function takes the content and a source of chance, and returns the damaged content.
"""

from __future__ import annotations

import ast
import gzip
import io
import json
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import yaml

Damage = Callable[[bytes, Random], bytes]

NUMBERS: tuple[Any, ...] = (
    *(0, -1, 1, 2, 3, 7, 127, 255, 32767, -32768, 65535, 2**31 - 1, -(2**31), 2**32, 2**63 - 1),
    *(1e-45, 1e-30, 1e30, 3e38, 1e300, float("nan"), float("inf"), float("-inf"), 0.5, -0.5),
)
VALUES: tuple[Any, ...] = (
    *NUMBERS,
    *(
        None,
        True,
        False,
        "",
        "x",
        "../../x",
        "${a.b}",
        "${oc.env:HOME}",
        "\x00",
        "é" * 40,
        "a" * 5000,
    ),
    *([], {}, [[]], [None], [1], [1, 2], [1, 2, 3], [2, 1], {"a": 1}, [0] * 500, [[1, 2], [3]]),
    *(10**11, 10**30, -(10**11), "1e400", "nan", "1,2", "0x10", "2026-11-29", {"name": "Missing"}),
)


# Bytes -------------------------------------------------------------------------------------------


def flip_bits(data: bytes, random: Random) -> bytes:
    """Flip one to eight bits."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8))):
        if changed:
            changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def flip_early(data: bytes, random: Random) -> bytes:
    """Flip bits of the first bytes, where headers are."""
    size = random.choice((16, 64, 400))
    return flip_bits(data[:size], random) + data[size:]


def cut(data: bytes, random: Random) -> bytes:
    """Cut the end off, or the beginning."""
    at = random.choice((0, 1, 4, 10, 347, 348, 352, len(data) // 2, len(data) - 1, len(data) - 8))
    at = random.choice((at, random.randrange(len(data) + 1)))
    return data[at:] if random.random() < 0.1 else data[: max(at, 0)]


def insert(data: bytes, random: Random) -> bytes:
    """Insert zeros, ones, noise or a piece of the file itself."""
    at, size = random.randrange(len(data) + 1), random.choice((1, 2, 16, 500))
    noise = random.randbytes(size)
    piece = random.choice((bytes(size), b"\xff" * size, noise, data[:size]))
    return data[:at] + piece + data[at:]


def overwrite(data: bytes, random: Random) -> bytes:
    """Overwrite a piece."""
    at, size = random.randrange(len(data) + 1), random.choice((1, 4, 64, 1000))
    piece = random.choice((bytes(size), b"\xff" * size, random.randbytes(size)))
    return (data[:at] + piece + data[at + size :])[: len(data)]


def remove(data: bytes, random: Random) -> bytes:
    """Take a piece out."""
    at = random.randrange(len(data) + 1)
    return data[:at] + data[at + random.choice((1, 4, 64, 1000)) :]


def repeat(data: bytes, random: Random) -> bytes:
    """Append the file to itself, or noise."""
    return data + random.choice((data, bytes(64), random.randbytes(64)))


BYTES: tuple[Damage, ...] = (flip_bits, flip_early, cut, insert, overwrite, remove, repeat)


# Volumes -----------------------------------------------------------------------------------------


def _with_field(data: bytes, dtype: np.dtype[Any], random: Random) -> bytes:
    """Set a field of a binary header, or one element of it, to an extreme value."""
    header = np.frombuffer(data[: dtype.itemsize], dtype).copy()
    name = random.choice(dtype.names or ())
    field = header[name].reshape(-1)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        if field.dtype.kind in "SV":
            field[:] = np.frombuffer(random.randbytes(field.nbytes), field.dtype)
        elif field.dtype.kind == "f":
            field[random.randrange(field.size)] = float(random.choice(NUMBERS))
        else:
            value = random.choice([v for v in NUMBERS if abs(v) < 2**63 and v == int(v)])
            value = random.choice((int(value), random.randrange(2048)))
            field[random.randrange(field.size)] = np.array(value).astype(field.dtype)
    header[name] = field.reshape(header[name].shape)
    return header.tobytes() + data[dtype.itemsize :]


def nifti_field(data: bytes, random: Random) -> bytes:
    """Change a field of the header, perhaps two."""
    dtype = nib.Nifti1Header.template_dtype
    data = _with_field(data, dtype, random)
    return _with_field(data, dtype, random) if random.random() < 0.3 else data


def nifti_swapped(data: bytes, random: Random) -> bytes:
    """Swap the bytes of the header, or of the voxels, alone."""
    size = nib.Nifti1Header.template_dtype.itemsize
    if random.random() < 0.5:
        header = np.frombuffer(data[:size], nib.Nifti1Header.template_dtype)
        return header.byteswap().tobytes() + data[size:]
    voxels = np.frombuffer(data[352 : 352 + (len(data) - 352) // 2 * 2], np.int16)
    return data[:352] + voxels.byteswap().tobytes()


def mgh_field(data: bytes, random: Random) -> bytes:
    """Change a field of the header of an MGH file."""
    return _with_field(data, nib.freesurfer.mghformat.MGHHeader.template_dtype, random)


def _zipped(damage: Damage) -> Damage:
    """Damage what is compressed and compress it again, so that the checksum is right."""

    def inside(data: bytes, random: Random) -> bytes:
        return gzip.compress(damage(gzip.decompress(data), random), 1)

    inside.__name__ = f"zipped_{damage.__name__}"
    return inside


def gzip_trailer(data: bytes, random: Random) -> bytes:
    """Write a wrong checksum, size or kind of compression, or another member behind."""
    kind = random.randrange(5)
    if kind == 0:
        return data[:-8] + random.randbytes(4) + data[-4:]
    if kind == 1:
        return data[:-4] + struct.pack("<I", random.choice((0, 1, 2**32 - 1, len(data))))
    if kind == 2:
        return data[:2] + bytes([random.randrange(256), random.randrange(256)]) + data[4:]
    if kind == 3:
        return data + gzip.compress(random.randbytes(random.choice((1, 5000))))
    content = gzip.decompress(data)  # the checksum of another stream
    half = gzip.compress(content[: len(content) // 2])
    return half[:-8] + struct.pack("<II", zlib.crc32(content), len(content))


def npy_header(data: bytes, random: Random) -> bytes:
    """Change the header of an array."""
    length = struct.unpack("<H", data[8:10])[0]
    header = ast.literal_eval(data[10 : 10 + length].decode())
    changes: tuple[tuple[str, tuple[Any, ...]], ...] = (
        (
            "shape",
            ((), (0,), (-1,), (10**6, 10**6), (2**62,), (1,) * 40, (3, 2), "x", None, (1.5,)),
        ),
        (
            "descr",
            ("|O", "<f8", ">i2", "<c16", "|S1", "<U9999", "<M8[D]", "x", None, [("a", "<i4")]),
        ),
        ("fortran_order", (True, 1, None, "yes")),
    )
    key, values = random.choice(changes)
    header[key] = random.choice(values)
    if random.random() < 0.2:
        del header[key]
    text = repr(header).encode() + b"\n"
    if random.random() < 0.1:
        text = random.choice((b"(" * 4000, b"{", b"", b"[" * 60000))
    size = random.choice((len(text), len(text), len(text), 0, 65535))
    return data[:8] + struct.pack("<H", size & 0xFFFF) + text + data[10 + length :]


def npz_members(data: bytes, random: Random) -> bytes:
    """Damage, double, rename or add members; the checksums are right."""
    out = io.BytesIO()
    method = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA))
    with (
        zipfile.ZipFile(io.BytesIO(data)) as old,
        zipfile.ZipFile(out, "w", method) as new,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # of names that are there twice
        for name in old.namelist():
            content = old.read(name)
            kind = random.randrange(5)
            if kind < 2:
                content = random.choice((npy_header, *BYTES))(content, random)
            renamed = (
                random.choice((name, "x.npy", "../" + name, name + "/")) if kind == 2 else name
            )
            new.writestr(renamed, content)
            if kind == 3:
                new.writestr(name, npy_header(content, random))
    return out.getvalue()


# Models ------------------------------------------------------------------------------------------


def safetensors_header(data: bytes, random: Random) -> bytes:
    """Change the header: sizes, types, places, the settings in it, or its length."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    kind = random.randrange(4)
    if kind == 0:
        size = random.choice((0, 1, length - 1, length + 1, len(data), 2**31, 2**63, 2**64 - 1))
        return struct.pack("<Q", size) + data[8:]
    tensors = [name for name in header if name != "__metadata__"]
    if kind == 1:
        tensor = header[random.choice(tensors)]
        tensor[random.choice(list(tensor))] = random.choice(VALUES[:-1])
        if random.random() < 0.3:
            header[random.choice((*tensors, "x"))] = tensor
    elif kind == 2:
        settings = header["__metadata__"]
        name = random.choice(list(settings))
        settings[name] = yaml_tree(settings[name].encode(), random, dump=json.dumps).decode()
    else:
        header["__metadata__"] = random.choice(({}, {"synthsr": "x"}, {"format": "pt"}))
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def hdf5_content(data: bytes, random: Random) -> bytes:
    """Change an attribute or a data set, or put a link or a huge data set in its place."""
    file = io.BytesIO(data)
    with h5py.File(file, "r+") as content:
        places: list[Any] = [content]
        content.visititems(lambda _, item: places.append(item))
        place = random.choice(places)
        kind = random.randrange(5)
        if kind == 0 and len(place.attrs):
            _set_attribute(place.attrs, random)
        elif kind == 1:
            place.attrs[random.choice(("weight_names", "layer_names", "x"))] = b"x" * 100
        else:
            sets = [p for p in places if isinstance(p, h5py.Dataset)]
            _replace_data(content, random.choice(sets).name, kind, random)
    return file.getvalue()


def _set_attribute(attributes: Any, random: Random) -> None:
    name = random.choice(list(attributes))
    choices = (
        1,
        1e300,
        b"x",
        "x" * 5000,
        [b"a", b"b"],
        b'{"a": ' * 500,
        np.zeros((0,)),
        h5py.Empty("f"),
    )
    attributes[name] = random.choice(choices)


def _replace_data(content: Any, name: str, kind: int, random: Random) -> None:
    old = content[name]
    shape, values = old.shape, old[()]
    del content[name]
    if kind == 2:
        links = (
            h5py.ExternalLink("/etc/hostname", "/"),
            h5py.ExternalLink("missing.h5", "/x"),
            h5py.SoftLink(name),
            h5py.SoftLink("/"),
        )
        content[name] = random.choice(links)
    elif kind == 3:
        huge = random.choice(((2**20, 2**20), (2**31,), (3, 3, 3, 2**10, 2**20), (0,), ()))
        content.create_dataset(
            name, huge, "f4", chunks=True if len(huge) and 0 not in huge else None
        )
    else:
        dtype = random.choice(("S3", "i8", "f2", "c8", h5py.string_dtype()))
        filled = (
            values.astype(dtype) if dtype in ("i8", "f2", "c8") else np.full(shape, "x", object)
        )
        content.create_dataset(name, data=filled, dtype=dtype)


# Text --------------------------------------------------------------------------------------------


def yaml_tree(data: bytes, random: Random, dump: Callable[[Any], str] = yaml.safe_dump) -> bytes:
    """Put another value in a place of a tree, or drop, double or rename an entry."""
    tree = yaml.safe_load(data)
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        pairs = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in list(pairs):
            places.append((node, key))
            if isinstance(value, dict | list):
                walk(value)

    walk(tree)
    node, key = random.choice(places)
    kind = random.randrange(6)
    if kind == 0:
        del node[key]
    elif kind == 1 and isinstance(node, dict):
        node[random.choice(("x", 1, None, "name", "p"))] = node.pop(key)
    else:
        node[key] = random.choice(VALUES)
    try:
        return dump(tree).encode()
    except (TypeError, ValueError):  # JSON has fewer values
        return flip_bits(data, random)


def json_tree(data: bytes, random: Random) -> bytes:
    """The same for JSON."""
    return yaml_tree(data, random, dump=json.dumps)


def text_lines(data: bytes, random: Random) -> bytes:
    """Drop, double, swap or indent a line, or add one that is hard to read."""
    lines = data.split(b"\n")
    at = random.randrange(len(lines))
    odd = (
        b"\t- x: [",
        b"a: &a [*a, *a]",
        b"<<: *x",
        b"? [1]",
        b"!!python/object:os.system x",
        b"\x00",
    )
    odd += (
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"---",
        b"%YAML 9",
        b"{" * 2000,
        b"- " * 800,
        b"'" * 3,
        b"#",
    )
    kind = random.randrange(5)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(at, lines[random.randrange(len(lines))])
    elif kind == 2:
        lines[at] = b"  " + lines[at]
    elif kind == 3:
        lines[at] = random.choice((lines[at].strip(), lines[at] + b"\r", lines[at][::-1]))
    else:
        lines.insert(at, random.choice(odd))
    return b"\n".join(lines)


def tsv_cell(data: bytes, random: Random) -> bytes:
    """Put another value in a cell, or drop or add one."""
    rows = [line.split(b"\t") for line in data.split(b"\n")]
    row = rows[random.choice((0, random.randrange(len(rows))))]
    at = random.randrange(len(row))
    if random.random() < 0.2:
        del row[at]
    else:
        row[at : at + random.randrange(2)] = [str(random.choice(VALUES)).encode()]
    return b"\n".join(map(b"\t".join, rows))


DAMAGES: dict[str, tuple[Damage, ...]] = {
    ".nii": (*BYTES, nifti_field, nifti_field, nifti_field, nifti_swapped),
    ".nii.gz": (
        *BYTES, gzip_trailer, gzip_trailer, _zipped(nifti_swapped),
        *map(_zipped, (*BYTES, nifti_field, nifti_field, nifti_field)),
    ),
    ".mgz": (*BYTES, gzip_trailer, *map(_zipped, (*BYTES, mgh_field, mgh_field, mgh_field))),
    ".npz": (*BYTES, npz_members, npz_members, npz_members),
    ".npy": (*BYTES, npy_header, npy_header),
    ".safetensors": (*BYTES, safetensors_header, safetensors_header, safetensors_header),
    ".h5": (*BYTES, hdf5_content, hdf5_content),
    ".yaml": (flip_bits, cut, insert, text_lines, yaml_tree, yaml_tree, yaml_tree),
    ".json": (flip_bits, cut, insert, text_lines, json_tree, json_tree),
    ".tsv": (flip_bits, cut, insert, text_lines, tsv_cell, tsv_cell),
    ".txt": (*BYTES, text_lines, text_lines),
}  # fmt: skip
"""What is done to files, by their ending."""


def ending(path: Path) -> str:
    """Ending of a name, of those in `DAMAGES`."""
    return next(e for e in sorted(DAMAGES, key=len, reverse=True) if path.name.endswith(e))


def damaged(path: Path, random: Random) -> tuple[str, bytes]:
    """What was done to a file, and its content then, which is another than before."""
    original = path.read_bytes()
    while True:
        damage = random.choice(DAMAGES[ending(path)])
        try:
            content = damage(original, random)
        except (IndexError, OverflowError, KeyError, TypeError, ValueError, OSError):
            continue  # does not apply to this file
        if content != original:
            return getattr(damage, "__name__", "damage"), content
