"""A laboratory for interleavings: what can happen when threads change one small table at once.

explore([...])                  every interleaving, one atomic step at a time: proved, or the shortest way it fails
ptl lab --list, ptl lab NAME    the scenarios, as stories to step through
"""

from ptl.lab.exploration import Exploration, Laboratory, explore
from ptl.lab.operations import Operation
from ptl.lab.scenarios import SCENARIOS, WAITING, Scenario

__all__ = ["SCENARIOS", "WAITING", "Exploration", "Laboratory", "Operation", "Scenario", "explore"]
