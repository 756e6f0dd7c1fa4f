"""Weighted structures in a file: a trajectory of AMBER's NetCDF convention with u, log w and log q of every frame.

mdtraj, VMD and cpptraj read the structures and ignore the rest.  The format is NetCDF 3 with 64-bit offsets, since a
file that was cut short by a kill can still be read up to the last committed frame.
"""

from __future__ import annotations

import errno
import json
import os
import struct
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import mdtraj
import numpy as np

from ..tools.files import NotWrittenError, check_format
from .held import from_json
from .trajectories import topology_from_arrays, topology_to_arrays

if TYPE_CHECKING:
    import netCDF4


FORMAT = "openmm_fab stream 1"
SUFFIX = ".nc"
OURS = "a file that generator.sample(n, out=...) wrote"
ADVICE = "Read another trajectory with mdtraj.load and Ensemble.from_mdtraj."
ANGSTROM = 10.0  # a nm
COLUMNS = {"u": "kT", "log_w": "nat", "log_q": "nat"}
_COUNTS = struct.Struct("<QQI")  # frames, the frame that `state` belongs to, checksum


class WeightedTrajectory:
    """A weighted trajectory file, opened by `open`; to be used in a `with` block.

    Attributes
    ----------
    frames : int
        How many are committed; what lies behind them is not read, and is written over.
    resume : (int, bytes)
        The frame that whoever writes the file goes on from, and the random state that belongs there.
    about : dict
        Its attributes: fingerprint, temperature (K), name, seed, batch, model; `held` (JSON) in newer files.
    """

    def __init__(self, path: Path, file: netCDF4.Dataset) -> None:
        self.path, self._file = path, file
        self.about: dict[str, Any] = {key: file.getncattr(key) for key in file.ncattrs()}
        self._slot, self.frames, self.resume = self._committed()

    @staticmethod
    def wrote(path: str | Path) -> bool:
        """Whether a file is one of these, and not another trajectory in NetCDF."""
        import netCDF4

        try:
            with netCDF4.Dataset(path) as file:
                return getattr(file, "program", "") == "openmm_fab"
        except OSError:
            return False

    @classmethod
    def create(cls, path: str | Path, topology: mdtraj.Topology, about: dict[str, Any], state: bytes) -> None:
        """Create a file without frames; `open` it to write some.

        Parameters
        ----------
        path, topology, about
        state : bytes
            Random state of the first frame; later ones must be as long.
        """
        import netCDF4

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            raise FileExistsError(f"Expected a new file to write; {path} exists.")
        # Under another name until its first commit stands: a kill in between leaves no file that cannot be resumed.
        path, place = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}"), path
        arrays = topology_to_arrays(topology)
        atoms = np.frombuffer(json.dumps({k: v.tolist() for k, v in arrays.items()}).encode("ascii"), dtype="S1")
        with netCDF4.Dataset(path, "w", clobber=False, format="NETCDF3_64BIT_OFFSET") as file:
            file.setncatts({"Conventions": "AMBER", "ConventionVersion": "1.0"})
            file.setncatts({"program": "openmm_fab", "programVersion": FORMAT, "application": "openmm_fab"})
            file.setncatts({**about, "title": f"{about['name']}: weighted structures", "data_begins": np.int32(0)})
            sizes = {"frame": None, "spatial": 3, "atom": topology.n_atoms, "slot": 2, "text": len(atoms)}
            for name, size in {**sizes, "state": _COUNTS.size + len(state)}.items():
                file.createDimension(name, size)
            file.createVariable("spatial", "S1", ("spatial",))[:] = np.array(list("xyz"), dtype="S1")
            file.createVariable("topology", "S1", ("text",))[:] = atoms
            file.createVariable("resume", "i1", ("slot", "state"))[:] = 0
            file.createVariable("time", "f4", ("frame",)).units = "picosecond"  # the frame's number; some readers ask
            file.createVariable("coordinates", "f4", ("frame", "atom", "spatial")).units = "angstrom"
            for name, unit in COLUMNS.items():
                file.createVariable(name, "f8", ("frame",)).units = unit
        with netCDF4.Dataset(path, "r+") as file:
            file.data_begins = np.int32(path.stat().st_size)
        with cls.open(path, append=True) as new:
            new.commit(0, 0, state)
        os.replace(path, place)

    @classmethod
    def open(cls, path: str | Path, append: bool = False) -> WeightedTrajectory:
        """Open a file made by `create`.

        Raises
        ------
        FileNotFoundError, ValueError
            If there is no file; if it is something else, or was cut short.
        """
        import netCDF4

        path = Path(path)
        if not path.exists():
            raise FileNotFoundError(f"Expected a file of weighted structures; there is none at {path}.")
        try:
            file = netCDF4.Dataset(path, "r+" if append else "r")
        except (OSError, RuntimeError) as error:
            raise ValueError(f"Expected {OURS} at {path}; NetCDF cannot read it: {error}. {ADVICE}") from error
        try:
            check_format(getattr(file, "programVersion", None), FORMAT, OURS, path, ADVICE)
            file.set_auto_mask(False)
            # NetCDF reads zeros behind the end of a file, in silence.
            atoms, rows = len(file.dimensions["atom"]), len(file.dimensions["frame"])
            row = 12 * atoms + 8 * len(COLUMNS) + 4 * ("time" in file.variables)  # older files have none
            expected = int(file.data_begins) + rows * row
            if (got := os.path.getsize(path)) < expected:
                raise ValueError(
                    f"Expected {expected} bytes in {path}, which says that it holds {rows} frames; got {got}: the file "
                    "was cut short. Copy it again, or sample anew."
                )
            return cls(path, file)
        except BaseException:
            file.close()
            raise

    @property
    def topology(self) -> mdtraj.Topology:
        arrays = json.loads(self._file["topology"][:].tobytes())
        return topology_from_arrays({key: np.array(value) for key, value in arrays.items()})

    def write(self, first: int, x: np.ndarray, **columns: np.ndarray) -> None:
        """Write frames from number `first` on, x (n, atoms, 3) in nm, and u, log_w, log_q (n,).

        They are not part of the file until they are committed. Ctrl-C waits until all of them are written.
        """
        try:
            self._put(first, x, columns)
        except KeyboardInterrupt:
            self._put(first, x, columns)
            raise

    def _put(self, first: int, x: np.ndarray, columns: dict[str, np.ndarray]) -> None:
        frames = slice(first, first + len(x))
        with self._written():
            if "time" in self._file.variables:
                self._file["time"][frames] = np.arange(first, first + len(x))
            self._file["coordinates"][frames] = (ANGSTROM * x).astype(np.float32)
            for name in COLUMNS:
                self._file[name][frames] = columns[name]

    @contextmanager
    def _written(self) -> Iterator[None]:
        """NetCDF's errors as those of the file."""
        try:
            yield
        except RuntimeError as error:
            raise NotWrittenError(
                errno.EIO,
                f"{error}. {self.path} holds the {self.frames} frames committed before. Free some space, and go on "
                "with resume=True",
            ) from error

    def commit(self, frames: int, resume: int, state: bytes) -> None:
        """Mark `frames` frames as part of the file, with the frame and the random state to continue from."""
        # First the frames, then the word for it, in the older of two places: a kill leaves one of them whole.
        counts = struct.pack("<QQ", frames, resume)
        data = counts + struct.pack("<I", zlib.crc32(counts + state)) + state
        with self._written():
            self._file.sync()
            self._slot = 1 - self._slot
            self._file["resume"][self._slot] = np.frombuffer(data, dtype=np.int8)
            self._file.sync()
        self.frames, self.resume = frames, (resume, state)

    def _committed(self) -> tuple[int, int, tuple[int, bytes]]:
        """The place, frames and random state of the latest whole commit."""
        found: list[tuple[int, int, tuple[int, bytes]]] = []
        rows = len(self._file.dimensions["frame"])
        for slot in (0, 1):
            data = np.asarray(self._file["resume"][slot]).tobytes()
            frames, resume, checksum = _COUNTS.unpack(data[: _COUNTS.size])
            state = data[_COUNTS.size :]
            if checksum == zlib.crc32(struct.pack("<QQ", frames, resume) + state) and frames <= rows:
                found.append((slot, frames, (resume, state)))
        return max(found, key=lambda one: one[1], default=(0, 0, (0, b"")))

    def column(self, name: str, start: int, stop: int) -> np.ndarray:
        """Values of u, log_w or log_q of frames start to stop, float64."""
        return np.asarray(self._file[name][start : min(stop, self.frames)], dtype=np.float64)

    def read(self, start: int = 0, stop: int | None = None) -> dict[str, Any]:
        """Frames start to stop as the arguments of an `Ensemble`; all of them unless told otherwise."""
        stop = self.frames if stop is None else min(stop, self.frames)
        log_w = self.column("log_w", start, stop)
        return {
            "x": np.asarray(self._file["coordinates"][start:stop], dtype=np.float64) / ANGSTROM,
            "u": self.column("u", start, stop),
            "log_w": log_w,
            "log_q": self.column("log_q", start, stop),
            "topology": self.topology,
            "temperature": float(self.about["temperature"]),
            "name": self.about["name"],
            "invalid": int((log_w == -np.inf).sum()),
            "held": from_json(self.about["held"]) if "held" in self.about else None,
        }

    def __enter__(self) -> WeightedTrajectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._written():
                self._file.close()
        except NotWrittenError:
            # netCDF4 would close it once more when it is collected, which ends the process.
            cast(Any, type(self._file))._isopen.__set__(self._file, 0)
            raise
