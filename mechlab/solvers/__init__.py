"""Equilibria and the optimum, one solver a file."""
