"""What an import must start without: pandas, which Arrow's own conversions import, and numba, which compiled code needs once.

Either takes longer to start than a gigabyte of a log takes to be read.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def column(numbers: npt.NDArray[Any], valid: npt.NDArray[np.bool_] | None = None, kind: pa.DataType | None = None) -> pa.Array:
    """Return numbers or booleans as a column that shares their memory, so they must not change; null where not `valid`.

    `kind` is the type of the column where it is not the array's: a time, of integers.
    """
    bits = None if valid is None or valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
    if numbers.dtype == np.bool_:
        return pa.Array.from_buffers(pa.bool_(), len(numbers), [bits, pa.py_buffer(np.packbits(numbers, bitorder="little"))])
    return pa.Array.from_buffers(kind or pa.from_numpy_dtype(numbers.dtype), len(numbers), [bits, pa.py_buffer(numbers)])


def texts(words: Iterable[str]) -> pa.StringArray:
    """Return texts as a column."""
    encoded = [word.encode() for word in words]
    offsets = np.zeros(len(encoded) + 1, np.int32)
    np.cumsum([len(word) for word in encoded], out=offsets[1:])
    return stretches(offsets, np.frombuffer(b"".join(encoded), np.uint8))


def stretches(
    ends: npt.NDArray[np.int32], data: npt.NDArray[np.uint8], valid: npt.NDArray[np.bool_] | None = None
) -> pa.StringArray:
    """Return a column of texts that stand one after the other, sharing memory; `ends` begins with 0."""
    bits = None if valid is None or valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
    return pa.StringArray.from_buffers(len(ends) - 1, pa.py_buffer(ends), pa.py_buffer(data), bits)


def labels(numbers: npt.NDArray[Any], names: pa.StringArray) -> pa.DictionaryArray:
    """Return a dictionary column of the numbers of names; those below 0 are null."""
    indices = numbers.astype(np.int32, copy=False)
    return pa.DictionaryArray.from_arrays(column(indices, indices >= 0), names, safe=False)


def numbers(whole: pa.Array) -> npt.NDArray[Any]:
    """Return the memory of a column of numbers or times as an array; what stands where it is null is undefined."""
    kind = np.dtype(np.int64) if pa.types.is_timestamp(whole.type) else np.dtype(whole.type.to_pandas_dtype())
    return np.frombuffer(whole.buffers()[1], kind)[whole.offset : whole.offset + len(whole)]


def address(array: npt.NDArray[Any]) -> int:
    """Return where an array begins, for compiled code; it must stay alive meanwhile."""
    return int(array.__array_interface__["data"][0])


def handed(array: Any, kind: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return an array as compiled code takes it: itself, or a copy where it has gaps, another type, or came by a network.

    What is unpickled lies wherever the message had it, and not where a processor wants numbers to be.
    """
    return np.require(array, kind, ["C_CONTIGUOUS", "ALIGNED"])


def place(array: npt.NDArray[Any], kind: npt.DTypeLike, count: int = 0) -> int:
    """Return where an array begins, for compiled code, which takes on trust what is here made sure of.

    It is of this type, see :func:`handed`, and has `count` elements at least. It must stay alive meanwhile.
    """
    if array.dtype != kind or not (array.flags.c_contiguous and array.flags.aligned) or len(array) < count:
        raise ValueError(f"an array of {count} {np.dtype(kind)} in one piece is needed, not {array.dtype} of shape {array.shape}")
    return address(array)


def places(
    arrays: Iterable[npt.NDArray[Any]], kinds: Iterable[npt.DTypeLike], count: int = 0
) -> npt.NDArray[np.int64]:  # fmt: skip
    """Return the :func:`place` of each array: for compiled code, so many are one."""
    return np.array([place(array, kind, count) for array, kind in zip(arrays, kinds, strict=True)], np.int64)


@cache
def compiled(module: str, *beside: str) -> Mapping[str, Callable[..., int]]:
    """Return what a module's ``ENTRIES`` name, compiled: functions of so many integers that return one.

    numba compiles them on first use, which takes it half a minute. From then on their machine code lies beside the module,
    or where the user's caches are, and is loaded without numba. They leave Python alone while they run, and must neither
    allocate nor raise.

    Parameters
    ----------
    module : str
        Its ``ENTRIES`` are plain functions by name, each with the number of its arguments.
    beside : str
        The modules it takes something from: when one of them changes, it is compiled again.
    """
    import llvmlite.binding as llvm  # type: ignore[import-untyped]

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features().flatten()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features, opt=3, reloc="pic", codemodel="jitdefault"
    )
    paths = [Path(str(getattr(find_spec(name), "origin", ""))) for name in (module, *beside)]
    made_of = hashlib.sha256(b"".join(path.read_bytes() for path in paths))
    numba = Path(str(getattr(find_spec("numba"), "origin", ""))).stat()
    made_of.update(
        f"{llvm.llvm_version_info} {machine.triple} {llvm.get_host_cpu_name()} {features} {numba.st_mtime_ns}".encode()
    )
    cached = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folders = [paths[0].parent / "__pycache__", Path(cached).expanduser() / "coldcache"]
    files = [folder / f"{paths[0].stem}.{llvm.get_host_cpu_name()}.o" for folder in folders]
    with _COMPILING:
        symbols, code = _held(files, made_of.hexdigest()) or _compile(module, machine, files, made_of.hexdigest())
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _ENGINES.append(engine)
    return {
        name: ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * count)(engine.get_function_address(symbol))
        for name, (symbol, count) in symbols.items()
    }


def say_when_compiling(told: Callable[[], None]) -> None:
    """Have `told` called if something must be compiled, once: whoever waits for half a minute wants to know why."""
    _WAITING[:] = [told]


_WAITING: list[Callable[[], None]] = []
_ENGINES: list[Any] = []  # they own the machine code
_COMPILING = Lock()  # of threads that need the same code at once, one makes it
_OF_C = frozenset({"memcpy", "memmove", "memset", "pread"})
_Symbols = Mapping[str, tuple[str, int]]


def _held(places: Iterable[Path], made_of: str) -> tuple[_Symbols, bytes] | None:
    """Return the machine code that was made of just this, and the symbols in it; None without one."""
    for place in places:
        try:
            head, _, code = place.read_bytes().partition(b"\n")
            told = json.loads(head)
            if told["made_of"] == made_of and told["size"] == len(code):
                return told["symbols"], code
        except (OSError, ValueError, LookupError, TypeError):
            continue
    return None


def _compile(module: str, machine: Any, places: Iterable[Path], made_of: str) -> tuple[_Symbols, bytes]:
    """Compile a module's entries and keep them in the first place that can be written."""
    while _WAITING:
        _WAITING.pop()()
    import llvmlite.binding as llvm
    from numba import cfunc, types

    whole = llvm.parse_assembly("")
    symbols = {}
    for name, (function, count) in import_module(module).ENTRIES.items():
        entry = cfunc(types.int64(*[types.int64] * count), error_model="numpy")(function)
        symbols[name] = (entry.native_name, count)
        whole.link_in(llvm.parse_assembly(entry.inspect_llvm()))
    _strip(whole, {symbol for symbol, _ in symbols.values()}, machine)
    code = machine.emit_object(whole)
    head = json.dumps({"made_of": made_of, "size": len(code), "symbols": symbols}).encode() + b"\n"
    for place in places:
        try:
            place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.NamedTemporaryFile(dir=place.parent, delete=False) as file:
                file.write(head + code)
            Path(file.name).replace(place)
            break
        except OSError:
            continue
    return symbols, code


def _strip(whole: Any, kept: set[str], machine: Any) -> None:
    """Remove from compiled code whatever no kept symbol uses; what is left may call the C library only."""
    import llvmlite.binding as llvm

    for function in whole.functions:
        if not function.is_declaration and function.name not in kept:
            function.linkage = "internal"
    tuned = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    tuned.getModulePassManager().run(whole, tuned)
    called = {function.name for function in whole.functions if function.is_declaration}
    foreign = {name for name in called if not name.startswith("llvm.") and name not in _OF_C}
    if foreign:
        raise AssertionError(f"compiled code may raise or allocate: it calls {', '.join(sorted(foreign))}")
