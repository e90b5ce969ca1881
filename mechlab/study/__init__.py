"""What people read: comparison, incentive survey, tables, plots, the report."""
