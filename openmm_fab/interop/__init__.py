"""Flows, coordinates and energies of other libraries, and ours for them.

`flows` takes torch.distributions, normflows and zuko; `bgflow` goes both ways. Neither library is needed until one of
the functions is called.
"""

from __future__ import annotations
