"""Quality that has to be learned: rounds of auctions, and queries one by one."""

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
from mechlab.learning.questions import QuestionMarkets, by_question
from mechlab.learning.repeated import Repeated, repeated
from mechlab.learning.routing import (
    ByMechanism,
    Cascade,
    Oracle,
    Router,
    RoutingRule,
    SingleBest,
    route,
)

__all__ = [
    "LEARNERS",
    "UCB",
    "ByMechanism",
    "Cascade",
    "ExploreThenCommit",
    "Gaming",
    "Greedy",
    "Growth",
    "Known",
    "Learner",
    "Oracle",
    "QuestionMarkets",
    "Repeated",
    "Router",
    "RoutingRule",
    "Seen",
    "SingleBest",
    "Thompson",
    "by_question",
    "fitted_exponent",
    "gaming",
    "growth",
    "named_learner",
    "repeated",
    "route",
]
