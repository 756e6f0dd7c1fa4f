#!/bin/sh
# OpenMM's PDBxFile bonds the wrong atoms, or none, where struct_conn links the sugars of an oligosaccharide.
#
# Versions:  OpenMM 8.6.1 (app.PDBxFile), gemmi 0.7.5 for comparison, NumPy 2.4.6, Python 3.11.
# Date:      2026-11-30
# Input:     maltotriose without hydrogens (GLC, alpha 1-4), laid out as the wwPDB does a branched entity: label_seq_id is
#            "." in atom_site and struct_conn, the residue's number is auth_seq_id. Written twice: the author's name of the
#            chain is that of label_asym_id ("B", "B"), or another ("B", "C").
# Expected:  two bonds between residues, O4 of 1 to C1 of 2 and O4 of 2 to C1 of 3, 1.4 angstroms long: one molecule.
#            gemmi finds those, in both files.
# Seen:      rows of struct_conn are looked up by label_seq_id, which is "." for all: with the same name, both rows bond
#            O4 and C1 of the last sugar, across its ring; with another, none is found. Three molecules, no warning.
#
# Exits 0 while this is so, otherwise not.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check openmm==8.6.1 numpy==2.4.6 gemmi==0.7.5

venv/bin/python - <<'PYTHON'
import math
import sys
import warnings

import gemmi
import openmm
from openmm import app, unit

ATOMS = """\
1 C1 5.937 -1.624 -0.861
1 C2 5.714 -1.872 0.642
1 C3 4.287 -1.502 1.046
1 C4 3.743 -0.314 0.240
1 C5 3.775 -0.663 -1.268
1 C6 4.120 0.548 -2.151
1 O1 6.865 -2.558 -1.388
1 O2 5.938 -3.264 0.957
1 O3 4.270 -1.196 2.451
1 O4 2.419 -0.101 0.755
1 O5 4.713 -1.722 -1.580
1 O6 4.156 0.159 -3.524
2 C1 1.832 1.165 0.440
2 C2 0.827 1.505 1.566
2 C3 -0.444 0.705 1.324
2 C4 -1.092 1.122 -0.011
2 C5 -0.047 1.625 -1.044
2 C6 0.074 3.156 -1.169
2 O2 1.368 1.236 2.869
2 O3 -1.361 0.926 2.411
2 O4 -1.733 -0.048 -0.579
2 O5 1.249 1.046 -0.853
2 O6 -1.194 3.769 -1.329
3 C1 -3.049 -0.274 -0.063
3 C2 -3.524 -1.654 -0.587
3 C3 -5.054 -1.756 -0.582
3 C4 -5.641 -0.806 0.457
3 C5 -5.255 0.639 0.079
3 C6 -5.396 1.581 1.284
3 O2 -3.077 -1.902 -1.933
3 O3 -5.470 -3.097 -0.283
3 O4 -7.063 -0.939 0.540
3 O5 -3.943 0.744 -0.497
3 O6 -6.732 1.652 1.774
"""
BONDS = "C1-C2 C1-O1 C1-O5 C2-C3 C2-O2 C3-C4 C3-O3 C4-C5 C4-O4 C5-C6 C5-O5 C6-O6"  # of one GLC
HEAD = """\
data_MALTOTRIOSE
#
_entry.id MALTOTRIOSE
#
_entity.id 1
_entity.type branched
_entity.src_method man
_entity.pdbx_number_of_molecules 1
#
_pdbx_entity_branch.entity_id 1
_pdbx_entity_branch.type oligosaccharide
#
_struct_asym.id B
_struct_asym.entity_id 1
#
_chem_comp.id GLC
_chem_comp.type 'D-saccharide, alpha linking'
_chem_comp.name alpha-D-glucopyranose
_chem_comp.formula 'C6 H12 O6'
#
_struct_conn_type.id covale
#
"""


def loop(category, keys, rows):
    return "\n".join(["loop_", *(f"_{category}.{key}" for key in keys.split()), *rows, "#", ""])


def write(name, chain):
    """One file; chain is the author's name of it, and B the archive's."""
    text = HEAD
    text += loop(
        "pdbx_entity_branch_list", "entity_id num comp_id hetero", [f"1 {k} GLC n" for k in (1, 2, 3)]
    )
    text += loop(
        "pdbx_entity_branch_link",
        "link_id entity_id entity_branch_list_num_1 comp_id_1 atom_id_1 leaving_atom_id_1 "
        "entity_branch_list_num_2 comp_id_2 atom_id_2 leaving_atom_id_2 value_order",
        [f"{k} 1 {k + 1} GLC C1 O1 {k} GLC O4 HO4 sing" for k in (1, 2)],
    )
    text += loop(
        "pdbx_branch_scheme",
        "asym_id entity_id mon_id num pdb_asym_id pdb_mon_id pdb_seq_num auth_asym_id auth_mon_id auth_seq_num hetero",
        [f"B 1 GLC {k} {chain} GLC {k} {chain} GLC {k} n" for k in (1, 2, 3)],
    )
    text += loop(
        "chem_comp_bond",
        "comp_id atom_id_1 atom_id_2 value_order",
        ["GLC {} {} sing".format(*bond.split("-")) for bond in BONDS.split()],
    )
    text += loop(
        "struct_conn",
        "id conn_type_id ptnr1_label_asym_id ptnr1_label_comp_id ptnr1_label_seq_id ptnr1_label_atom_id "
        "pdbx_ptnr1_label_alt_id pdbx_ptnr1_PDB_ins_code ptnr1_symmetry ptnr2_label_asym_id ptnr2_label_comp_id "
        "ptnr2_label_seq_id ptnr2_label_atom_id pdbx_ptnr2_label_alt_id pdbx_ptnr2_PDB_ins_code ptnr2_symmetry "
        "ptnr1_auth_asym_id ptnr1_auth_comp_id ptnr1_auth_seq_id ptnr2_auth_asym_id ptnr2_auth_comp_id "
        "ptnr2_auth_seq_id pdbx_value_order",
        [
            f"covale{k} covale B GLC . O4 ? ? 1_555 B GLC . C1 ? ? 1_555 {chain} GLC {k} {chain} GLC {k + 1} sing"
            for k in (1, 2)
        ],
    )
    text += loop(
        "atom_site",
        "group_PDB id type_symbol label_atom_id label_alt_id label_comp_id label_asym_id label_entity_id label_seq_id "
        "pdbx_PDB_ins_code Cartn_x Cartn_y Cartn_z occupancy B_iso_or_equiv pdbx_formal_charge auth_seq_id "
        "auth_comp_id auth_asym_id auth_atom_id pdbx_PDB_model_num",
        [
            f"HETATM {n} {atom[0]} {atom} . GLC B 1 . ? {x} {y} {z} 1.00 0.00 ? {k} GLC {chain} {atom} 1"
            for n, (k, atom, x, y, z) in enumerate((line.split() for line in ATOMS.splitlines()), 1)
        ],
    )
    with open(name, "w") as file:
        file.write(text)


def by_gemmi(name):
    """The links that gemmi finds: residue and atom, twice, and the length in angstroms."""
    structure = gemmi.read_structure(name)
    found = []
    for link in structure.connections:
        ends = [structure[0].find_cra(partner) for partner in (link.partner1, link.partner2)]
        length = ends[0].atom.pos.dist(ends[1].atom.pos)
        found.append((*(f"{end.residue.seqid}:{end.atom.name}" for end in ends), round(length, 2)))
    return sorted(found)


def by_openmm(name):
    """The bonds that chem_comp_bond does not name, the number of molecules, and the warnings, in OpenMM."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pdbx = app.PDBxFile(name)
    xyz = pdbx.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    inside = {frozenset(bond.split("-")) for bond in BONDS.split()}
    found, molecule = [], list(range(pdbx.topology.getNumAtoms()))
    for a, b in pdbx.topology.bonds():
        old, new = molecule[b.index], molecule[a.index]
        molecule = [new if m == old else m for m in molecule]
        if a.residue is not b.residue or frozenset((a.name, b.name)) not in inside:
            length = math.dist(xyz[a.index], xyz[b.index])
            found.append((f"{a.residue.id}:{a.name}", f"{b.residue.id}:{b.name}", round(length, 2)))
    return sorted(found), len(set(molecule)), [str(w.message) for w in caught]


print(f"OpenMM {openmm.__version__}, gemmi {gemmi.__version__}; residue:atom, residue:atom, length in angstroms")
seen = {}
for chain in "BC":
    write(f"{chain}.cif", chain)
    links = by_gemmi(f"{chain}.cif")
    bonds, molecules, caught = by_openmm(f"{chain}.cif")
    print(f"label_asym_id B, auth_asym_id {chain}: gemmi  {links}")
    print(f"label_asym_id B, auth_asym_id {chain}: OpenMM {bonds}; {molecules} molecules; warnings {caught}")
    seen[chain] = ([link[:2] for link in links], [bond[:2] for bond in bonds], molecules, caught)
right = [("1:O4", "2:C1"), ("2:O4", "3:C1")]
as_stated = seen == {"B": (right, [("3:O4", "3:C1")], 3, []), "C": (right, [], 3, [])}
print("as stated: links of sugars are lost" if as_stated else "CHANGED: not as stated at the top of this script")
sys.exit(0 if as_stated else 1)
PYTHON
