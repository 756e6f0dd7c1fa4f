"""Conversion of flows, coordinates and energies from and to other libraries.

`flows` converts those of torch.distributions, normflows and zuko; `bgflow` goes both ways. No library is needed until
one of the functions is called.
"""

from __future__ import annotations
