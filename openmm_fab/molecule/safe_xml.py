"""Checks of XML before OpenMM reads it, so that nothing in it is run or read otherwise than it is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from xml.parsers import expat

import openmm

# The classes that a `type` of serialized XML may name. All but PythonForce, whose function is a pickle, are numbers and
# expressions; a plugin's may be a program (a TorchScript model, a PLUMED script).
SERIALIZED = (openmm.System, openmm.Force, openmm.TabulatedFunction, openmm.Integrator)
SHIFTS = ("fixed", "offset")  # what ATMForce writes as the type of its particles
TRUSTED = "in a script of your own, if you trust it, and use MolecularSystem.from_openmm"


def check_forcefield(path: Path, above: tuple[Path, ...] = ()) -> None:
    """Refuse a force-field file, or one that it includes, with anything that OpenMM would run or expand.

    Raises
    ------
    ValueError
    """
    if path.resolve() in above:
        raise ValueError(f"Expected {path} to include other files only; it includes itself.")
    included: list[str] = []

    def start(tag: str, attributes: dict[str, str], where: str) -> None:
        if tag in ("Script", "InitializationScript"):
            raise ValueError(
                f"Expected a force field of numbers and expressions; {where} has a <{tag}>, which OpenMM would run. "
                f"Write what it does as forces, or make the System {TRUSTED}."
            )
        # OpenMM evaluates this one as Python.
        if attributes.get("useDispersionCorrection", "True") not in ("True", "False"):
            raise ValueError(f"Expected useDispersionCorrection to be True or False in {where}.")
        if tag == "Include" and "file" in attributes:
            included.append(attributes["file"])

    _parse(path.read_bytes(), str(path), start, None)
    for name in included:
        if (path.parent / name).is_file():
            check_forcefield(path.parent / name, (*above, path.resolve()))
        elif Path(name).is_file():
            check_forcefield(Path(name), (*above, path.resolve()))


def check_serialized(text: str, name: str) -> None:
    """Refuse serialized objects that would run code when deserialized, or that OpenMM reads otherwise than as XML.

    To be called before it is deserialized: OpenMM unpickles the function of a PythonForce while it reads. OpenMM's
    reader also ends a comment at its first bracket, so that it takes for elements what no other reader sees.

    Parameters
    ----------
    name : str
        What the text is, for messages: a path.

    Raises
    ------
    ValueError
        A PythonForce, at any depth; a type that is none of OpenMM's own; a document type; a comment or processing
        instruction with angle brackets, or a CDATA section; anything that is no XML.
    """

    if "\0" in text:  # expat would take it for UTF-16, whatever it is told, and OpenMM's reader would not
        raise ValueError(f"Expected XML in {name}; got a NUL character. Write it in UTF-8.")

    def start(tag: str, attributes: dict[str, str], where: str) -> None:
        kind = attributes.get("type")
        if kind is None or kind in SHIFTS or kind.lstrip("-").isdigit():  # CustomGBForce numbers its kinds of terms
            return
        if kind == "PythonForce":
            raise ValueError(
                f"Expected forces of numbers and expressions; {where} has a PythonForce, whose function OpenMM would "
                f"unpickle, and so run, while it reads. Deserialize it {TRUSTED}."
            )
        found = getattr(openmm, kind, None)
        if not (isinstance(found, type) and issubclass(found, SERIALIZED)):
            raise ValueError(
                f"Expected types of OpenMM's own; {where} has type {kind!r} in <{tag}>, which may be a program, such "
                f"as the script or model of a plugin. Deserialize it {TRUSTED}."
            )

    def other(kind: str, data: str, where: str) -> None:
        if kind == "CDATA section" or "<" in data or ">" in data:
            raise ValueError(
                f"Expected elements and attributes only; {where} has a {kind}{' with < or >' if data else ''}, of "
                "which OpenMM's reader takes parts for elements. Leave it out."
            )

    _parse(text.encode(), name, start, other, "utf-8")


def _parse(
    data: bytes,
    name: str,
    start: Callable[[str, dict[str, str], str], None],
    other: Callable[[str, str, str], None] | None,
    encoding: str | None = None,
) -> None:
    """Call start(tag, attributes, where) for elements, other(kind, data, where) for what is neither them nor text.

    `encoding` goes before that which the XML declares.
    """
    parser = expat.ParserCreate(encoding)

    def where() -> str:
        return f"line {parser.CurrentLineNumber} of {name}"

    def doctype(*_: object) -> None:
        raise ValueError(
            f"Expected XML without a document type; {where()} has one, whose entities may grow without bound or read "
            "other files. Leave it out."
        )

    parser.StartDoctypeDeclHandler = doctype
    parser.StartElementHandler = lambda tag, attributes: start(tag, attributes, where())
    if other is not None:
        parser.CommentHandler = lambda text: other("comment", text, where())
        parser.ProcessingInstructionHandler = lambda target, text: other("processing instruction", text, where())
        parser.StartCdataSectionHandler = lambda: other("CDATA section", "", where())
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise ValueError(f"Expected XML in {name}; {error}.") from error
