"""One module a kind of golden vector: `check(case)` raises where genodiff departs from it."""
