"""Quality that has to be learned: rounds of auctions, and queries one by one.

The latter, `questions` and `routing`, read sample tables, and are imported when asked for.
"""

from mechlab.learning.gaming import Gaming, gaming
from mechlab.learning.growth import Growth, fitted_exponent, growth
from mechlab.learning.learners import (
    LEARNERS,
    UCB,
    ExploreThenCommit,
    Greedy,
    Known,
    Learner,
    Seen,
    Thompson,
    named_learner,
)
from mechlab.learning.repeated import Repeated, repeated

__all__ = [
    "LEARNERS",
    "UCB",
    "ExploreThenCommit",
    "Gaming",
    "Greedy",
    "Growth",
    "Known",
    "Learner",
    "Repeated",
    "Seen",
    "Thompson",
    "fitted_exponent",
    "gaming",
    "growth",
    "named_learner",
    "repeated",
]
