"""Who gains by deviating, and rules that are learned under attack."""
