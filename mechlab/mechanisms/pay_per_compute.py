"""Pay-per-compute: today's pricing rule."""

from mechlab.core.market import Array
from mechlab.mechanisms.logit import LogitChoice


class PayPerCompute(LogitChoice):
    """Every provider charges for the tokens that it generates; users choose by logit.

    σ_i = e^{βV_i}/(e^{βv0} + Σ_j e^{βV_j}) with V_i = q_i − p_i, and U_i = σ_i(p_i − c_i).
    Source: Velasco et al. 2026, "Test-Time Compute Games".
    """

    def ask(self, price: Array, tokens: Array) -> Array:
        return price
