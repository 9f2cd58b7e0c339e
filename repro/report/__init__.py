"""The report: one page with every number, its evidence, the claims and the decisions."""
