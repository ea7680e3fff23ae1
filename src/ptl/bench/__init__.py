"""The benchmark suite, `ptl bench`: ptl beside its peers, and beside what the machine does at best.

    settings    how large, how long            native, peers   who takes part, and who is missing
    measure     in turn, median of ratios      pages           the addresses that everything is about
    batch single ranges reclamation scaling memory curves readers races instructions       what is compared: a file each
    suite       all of it, and the result

Every number is a ratio of two things measured in turn within one run (`measure`). Single operations beside `dict`, for
work on ptl itself, are in the `bench` directory of the source.
"""

from ptl.bench.settings import QUICK, WHOLE, Size
from ptl.bench.suite import PARTS, run

__all__ = ["PARTS", "QUICK", "WHOLE", "Size", "run"]
