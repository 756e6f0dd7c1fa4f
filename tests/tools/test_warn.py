"""Warnings name the line of who called the package, not one of the package, of PyTorch or of a progress bar."""

from __future__ import annotations

import inspect
import math
import re
import threading
import warnings

import pytest
import torch
from test_layering import ROOT, SOURCES

from openmm_fab.ais.annealing import AISSettings
from openmm_fab.flow.coupling import CouplingFlow
from openmm_fab.flow.settings import FlowSettings
from openmm_fab.target import ManyWell
from openmm_fab.train.settings import Budget, TrainSettings
from openmm_fab.train.trainer import Trainer

MADE_UP = """
import contextlib, functools, torch
from openmm_fab.tools.progress import bar
from openmm_fab.tools.warn import warn

def plain(text):
    warn(text)

@torch.no_grad()
def decorated(text):
    plain(text)

class Module(torch.nn.Module):
    def forward(self, text):
        return plain(text)

class Lazy:
    @functools.cached_property
    def value(self):
        plain("by a cached property")

@contextlib.contextmanager
def managed(text):
    plain(text)
    yield

def rows(text):
    for i in range(2):
        decorated(text) if i else None
        yield i

def through_a_bar(text):
    return list(bar(rows(text), "rows", False, unit="row"))

def called_back(f):
    f()

class Category(RuntimeWarning):
    pass

def of_a_category(text):
    warn(text, Category)
"""


@pytest.fixture(scope="module")
def ours() -> dict:
    """Functions of a file that seems to be the package's."""
    names = {"__name__": "openmm_fab.made_up"}
    exec(compile(MADE_UP, str(ROOT / "made_up.py"), "exec"), names)
    return names


@pytest.mark.parametrize("name", ["plain", "decorated", "through_a_bar", "of_a_category"])
def test_the_line_that_called_the_package_is_named(ours, name) -> None:
    with pytest.warns(ours["Category"] if name == "of_a_category" else UserWarning, match=f"^by {name}$") as caught:
        line = inspect.currentframe().f_lineno + 1
        ours[name](f"by {name}")
    assert [(w.filename, w.lineno) for w in caught] == [(__file__, line)]


def test_modules_properties_and_managers_are_looked_through(ours) -> None:
    with pytest.warns(UserWarning) as caught:
        ours["Module"]()("by a module")
        _ = ours["Lazy"]().value
        with ours["managed"]("by a manager"):
            pass
    assert [str(w.message) for w in caught] == ["by a module", "by a cached property", "by a manager"]
    assert {w.filename for w in caught} == {__file__}


def test_what_calls_back_is_called_by_the_user(ours) -> None:
    """A function of the user's that the package calls, and that calls the package: the first call is named."""
    with pytest.warns(UserWarning) as caught:
        first = inspect.currentframe().f_lineno + 1
        ours["called_back"](lambda: ours["plain"]("from within"))
    assert [w.lineno for w in caught] == [first]


def test_a_thread_of_the_package_has_a_line_as_well(ours) -> None:
    with pytest.warns(UserWarning, match="in a thread"):
        thread = threading.Thread(target=ours["plain"], args=("in a thread",))
        thread.start()
        thread.join()


def test_a_line_says_the_same_thing_once(ours) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            ours["plain"]("again and again")
        ours["plain"]("again and again")
    assert len(caught) == 2


def test_a_training_names_the_line_that_trains() -> None:
    rng, target = torch.Generator().manual_seed(0), ManyWell(2)
    flow = CouplingFlow(target.periodic, FlowSettings(layers=2, hidden=16), rng=rng)
    ais = AISSettings(intermediate=1, leapfrogs=1)
    settings = TrainSettings(batch=32, updates=2, buffer_min=4, buffer_max=8, warmup=1, ais=ais)
    trainer = Trainer(flow, target, Budget(iterations=2), settings=settings, rng=rng)
    trainer.step()
    assert not trainer.health.restored
    with pytest.warns(UserWarning, match="goes back to its last good state") as caught:
        while not trainer.health.restored:
            trainer.learner.learn(math.nan * sum(p.sum() for p in trainer.learner.flow.parameters()))
    assert {w.filename for w in caught} == {__file__}


def test_the_package_warns_in_one_way() -> None:
    files = [path for path, source in SOURCES.items() if re.search(r"warnings\.warn\(", source)]
    assert not files, "tools.warn.warn knows the line"
