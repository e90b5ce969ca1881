"""Scripts that remake the study: `python -m experiments NAME` writes to results/NAME/."""
